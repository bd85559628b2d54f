// Package notify tells systemd the state of this service. It owns NOTIFY_SOCKET:
// children must not inherit it, several of them would report themselves ready.
package notify

import (
	"log"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Ready reports that the service answers. Without systemd it does nothing.
func Ready(status string) { send(daemon.SdNotifyReady + "\nSTATUS=" + status) }

// Stopping reports that the service is going down.
func Stopping() { send(daemon.SdNotifyStopping) }

// Status reports what the service is doing.
func Status(status string) { send("STATUS=" + status) }

func send(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Printf("could not notify systemd: %v", err)
	}
}

// WithoutSocket is the environment for children.
func WithoutSocket(environ []string) []string {
	var kept []string
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		switch name {
		case "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID":
		default:
			kept = append(kept, variable)
		}
	}
	return kept
}

// UnderSystemd says whether systemd runs this host.
func UnderSystemd() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}
