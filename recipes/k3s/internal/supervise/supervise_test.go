package supervise

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatalf("not seen: %s", what)
}

func size(file string) int64 {
	info, err := os.Stat(file)
	if err != nil {
		return 0
	}
	return info.Size()
}

func TestAChildThatExitsIsStartedAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "starts")
	group := &Group{}
	group.Start(Spec{Path: "/bin/sh", Args: []string{"-c", "printf x >> " + file}, Grace: time.Second})
	eventually(t, "three starts", func() bool { return size(file) >= 3 })
	group.Stop()
	stopped := size(file)
	time.Sleep(700 * time.Millisecond)
	if size(file) != stopped {
		t.Error("started again after Stop")
	}
}

func TestAChildHasItsPriorityAndTheOthersDoNot(t *testing.T) {
	dir := t.TempDir()
	group := &Group{}
	defer group.Stop()
	for _, nice := range []int{7, 0} {
		file := filepath.Join(dir, strconv.Itoa(nice))
		script := "nice > " + file + "; exec sleep 60"
		group.Start(Spec{Path: "/bin/sh", Args: []string{"-c", script}, Grace: time.Second, Nice: nice})
		eventually(t, "its priority", func() bool { return size(file) > 0 })
		// A value is relative to nothing, but 0 leaves ours.
		ours, _ := exec.Command("nice").Output()
		expected := strings.TrimSpace(string(ours))
		if nice != 0 {
			expected = strconv.Itoa(nice)
		}
		if said, _ := os.ReadFile(file); strings.TrimSpace(string(said)) != expected {
			t.Errorf("a child with Nice %d runs with %s", nice, said)
		}
	}
}

func TestEveryStartAfterTheFirstAsksForItsArguments(t *testing.T) {
	file := filepath.Join(t.TempDir(), "starts")
	write := func(text string) []string { return []string{"-c", "printf " + text + " >> " + file} }
	asked := 0
	group := &Group{}
	defer group.Stop()
	group.Start(Spec{Path: "/bin/sh", Args: write("a"), Grace: time.Second, Again: func() ([]string, error) {
		if asked++; asked == 1 {
			return nil, errors.New("not yet")
		}
		return write("b"), nil
	}})
	eventually(t, "a second start", func() bool { return size(file) >= 2 })
	if content, _ := os.ReadFile(file); string(content[:2]) != "ab" {
		t.Errorf("started as %q", content)
	}
}

func TestTheLastStartedStopsFirst(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ends")
	group := &Group{}
	for _, name := range []string{"a", "b"} {
		group.Start(Spec{Path: "/bin/sh", Args: []string{"-c",
			"trap 'printf " + name + " >> " + file + "; exit' TERM; touch " + file + name + "; while :; do sleep 0.05; done"}, Grace: 5 * time.Second})
	}
	eventually(t, "both run", func() bool {
		_, errA := os.Stat(file + "a")
		_, errB := os.Stat(file + "b")
		return errA == nil && errB == nil
	})
	group.Stop()
	if content, _ := os.ReadFile(file); string(content) != "ba" {
		t.Errorf("ended in the order %q", content)
	}
}

func TestAChildThatIgnoresTheSignalIsKilled(t *testing.T) {
	file := filepath.Join(t.TempDir(), "up")
	group := &Group{}
	group.Start(Spec{Path: "/bin/sh", Args: []string{"-c", "trap '' TERM; touch " + file + "; while :; do sleep 0.05; done"}, Grace: 100 * time.Millisecond})
	eventually(t, "it runs", func() bool { _, err := os.Stat(file); return err == nil })
	done := make(chan struct{})
	go func() { group.Stop(); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Error("Stop hangs")
	}
}
