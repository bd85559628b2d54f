// Package supervise keeps the components running as children of this process.
//
// The components cannot share a process (several of them install a signal handler
// and a logger that may be set only once) and a crash of one must not take the
// others along. A child that exits is started again:
//
//	start -> running -> exited -> (delay 0.3 s doubling to 10 s) -> start
//	            |           (it may be refused: the delay, then it is asked again)
//	          Stop -> SIGTERM -> (grace) -> SIGKILL -> gone
//
// A child never outlives the supervisor: the kernel kills it when the supervisor is
// gone, however that happened, so a restarted supervisor finds no second etcd or
// kubelet. Container shims are children of containerd with no such tie and survive.
package supervise

import (
	"log"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

const (
	firstDelay = 300 * time.Millisecond
	lastDelay  = 10 * time.Second
	// A child that ran this long is taken to have worked: its next exit counts as a first.
	settled = 30 * time.Second
)

// Spec describes a child.
type Spec struct {
	// Path is executed with Args; its base name selects the component.
	Path string
	Args []string
	// Again, if set, gives the arguments of every start after the first. An error is
	// taken for a start that failed.
	Again func() ([]string, error)
	// Env is the whole environment.
	Env []string
	// Nice is the scheduler's priority of the child, from -20 (first) to 19; 0 is ours.
	Nice int
	// Grace is how long the child may take to stop on SIGTERM before SIGKILL.
	Grace time.Duration
}

// Group is the ordered set of children of one supervisor.
type Group struct {
	mu       sync.Mutex
	children []*child
	stopping bool
}

type child struct {
	spec Spec
	stop chan struct{}
	done chan struct{}
}

// Start adds a child and starts it in the background.
func (g *Group) Start(spec Spec) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopping {
		return
	}
	c := &child{spec: spec, stop: make(chan struct{}), done: make(chan struct{})}
	g.children = append(g.children, c)
	go c.run()
}

// Stop ends the children one after another, the last started first.
func (g *Group) Stop() {
	g.mu.Lock()
	g.stopping = true
	children := g.children
	g.mu.Unlock()
	for i := len(children) - 1; i >= 0; i-- {
		close(children[i].stop)
		<-children[i].done
	}
}

func (c *child) run() {
	defer close(c.done)
	// The kernel ties the parent-death signal to the thread that forked, not to the
	// process, so this goroutine has to keep its thread for as long as the child lives.
	runtime.LockOSThread()
	// A child also begins with the priority of the thread that forked it.
	if c.spec.Nice != 0 {
		if err := syscall.Setpriority(syscall.PRIO_PROCESS, 0, c.spec.Nice); err != nil {
			log.Printf("%s runs without its priority %d: %v", c.spec.Path, c.spec.Nice, err)
		}
	}
	delay, refusal := firstDelay, ""
	for again := false; ; again = true {
		started := time.Now()
		refused := c.refresh(again)
		var ended error
		if refused == nil {
			ended = c.runOnce()
		}
		select {
		case <-c.stop:
			return
		default:
		}
		switch {
		case refused == nil:
			refusal = ""
			if time.Since(started) > settled {
				delay = firstDelay
			}
			log.Printf("%s ended (%v), starting it again in %s", c.spec.Path, ended, delay)
		case refused.Error() != refusal: // the same reason again is no news
			refusal = refused.Error()
			log.Printf("%s is not started again: %v", c.spec.Path, refused)
		}
		select {
		case <-c.stop:
			return
		case <-time.After(delay):
		}
		delay = min(2*delay, lastDelay)
	}
}

// refresh takes new arguments for a start that is not the first.
func (c *child) refresh(again bool) error {
	if !again || c.spec.Again == nil {
		return nil
	}
	args, err := c.spec.Again()
	if err == nil {
		c.spec.Args = args
	}
	return err
}

// runOnce starts the child and waits for its end, asking it to end when told to.
func (c *child) runOnce() error {
	cmd := exec.Command(c.spec.Path, c.spec.Args...)
	cmd.Env = c.spec.Env
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go c.askToEnd(cmd.Process, ended)
	err := cmd.Wait()
	close(ended)
	return err
}

func (c *child) askToEnd(process *os.Process, ended <-chan struct{}) {
	select {
	case <-ended:
		return
	case <-c.stop:
	}
	_ = process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(c.spec.Grace):
		log.Printf("%s did not stop within %s, killing it", c.spec.Path, c.spec.Grace)
		_ = process.Kill()
	}
}
