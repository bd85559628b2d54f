// Package members makes this host's etcd a member of the cluster's etcd, and keeps the
// member list at what servers there are. It never removes the member of the host that
// it runs on, except for one without data that it replaces.
//
//	no data -> (an entry left behind is removed) -> learner -> data copied -> voter
//	data    -> voter, as it was
//	removed -> its etcd ends and is not started again; a restart of k3s sets the data
//	           aside and begins with "no data"
package members

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"slices"
	"time"

	"furrow/k3s/internal/config"
	"furrow/k3s/internal/files"
	"furrow/k3s/internal/notify"
)

const (
	// joinLimit ends a start that does not become a member. systemd begins another; it
	// is below the unit's own limit so that the reason is in the log.
	joinLimit  = 5 * time.Minute
	retryEvery = time.Second
	// sayEvery bounds how long a start waits without saying for what.
	sayEvery = 10 * time.Second
)

// Node is this host's etcd.
type Node struct {
	config   *config.Config
	self     Self
	local    string
	contacts func(context.Context) ([]string, error)
	// started is set once etcd has been given arguments in this process.
	started bool
}

// New describes this host's member. contacts finds client URLs of members by way of
// the server that is joined; local is this host's own.
func New(c *config.Config, self Self, local string, contacts func(context.Context) ([]string, error)) *Node {
	return &Node{config: c, self: self, local: local, contacts: contacts}
}

// Start is how etcd has to be started; an etcd with data goes by those.
type Start struct {
	InitialCluster string
	Existing       bool
}

// ErrRemoved is why the etcd of a removed server is not started.
var ErrRemoved = errors.New("this server is no member of etcd any more, its Node was deleted: a restart of k3s joins the cluster again")

// known is what has to be known of the other members when this host's etcd does not
// run. It lies outside of etcd's directory: a first server that loses that directory
// must join the others and not found a second cluster under the same authorities.
type known struct {
	ID     uint64   `json:"id"`
	Others []string `json:"others"`
	// Removed says that the others removed this host while its k3s ran.
	Removed bool `json:"removed,omitempty"`
}

func (n *Node) knownFile() string { return n.config.Layout.Server("db", "members.json") }
func (n *Node) dataDir() string   { return n.config.Layout.Server("db", "etcd") }

// HasData says whether etcd has run here as a member.
func HasData(c *config.Config) bool {
	logs, err := filepath.Glob(c.Layout.Server("db", "etcd", "member", "wal", "*.wal"))
	return err == nil && len(logs) > 0
}

// Prepare returns how to start etcd, after making this host a member if it is none. It
// is called before every start and may be interrupted anywhere.
func (n *Node) Prepare(ctx context.Context) (Start, error) {
	again := n.started
	n.started = true
	k, err := n.load()
	if err != nil {
		return Start{}, err
	}
	asItIs := Start{InitialCluster: n.self.Name + "=" + n.self.PeerURL}
	if HasData(n.config) {
		if !again && !k.Removed {
			return asItIs, nil
		}
		// That it ended may be a crash, or the others' decision; only they know.
		if gone, err := n.gone(ctx, k); err != nil || !gone {
			return asItIs, nil
		}
		if again {
			k.Removed = true
			notify.Status(ErrRemoved.Error())
			return Start{}, errors.Join(ErrRemoved, n.store(k))
		}
		log.Printf("this server was removed from etcd: setting its former data aside and joining again")
	}
	if n.config.ServerURL == "" && len(k.Others) == 0 {
		return asItIs, nil // the first server of a new cluster
	}
	if err := n.setAside(); err != nil {
		return Start{}, err
	}
	return n.join(ctx, k)
}

// gone asks the other members whether this host was removed from their list.
func (n *Node) gone(ctx context.Context, k known) (bool, error) {
	if k.ID == 0 || len(k.Others) == 0 {
		return false, nil
	}
	list, err := n.listAt(ctx, k.Others...)
	if err != nil {
		return false, err
	}
	return !slices.ContainsFunc(list, func(m Member) bool { return m.ID == k.ID }), nil
}

// setAside renames what is in etcd's directory: etcd would take parts of it for its
// own state. Only the last one is kept.
func (n *Node) setAside() error {
	if _, err := os.Stat(filepath.Join(n.dataDir(), "member")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	former := n.dataDir() + "-former"
	err := os.RemoveAll(former)
	if err == nil {
		err = os.Rename(n.dataDir(), former)
	}
	if err == nil {
		err = os.Mkdir(n.dataDir(), 0o700)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("could not set the former data of etcd aside: %w", err)
	}
	return nil
}

// join makes this host a member, within joinLimit.
func (n *Node) join(ctx context.Context, k known) (Start, error) {
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	last := ""
	for {
		start, err := n.attempt(ctx, k)
		if err == nil {
			return start, nil
		}
		if ctx.Err() == nil && err.Error() != last {
			last = err.Error()
			notify.Status("waiting to become a member of etcd: " + last)
			log.Printf("waiting to become a member of etcd: %v", err)
		}
		select {
		case <-ctx.Done():
			return Start{}, fmt.Errorf("did not become a member of etcd within %s: %s", joinLimit, last)
		case <-time.After(retryEvery):
		}
	}
}

func (n *Node) attempt(ctx context.Context, k known) (Start, error) {
	endpoints := k.Others
	if n.config.ServerURL != "" {
		found, err := n.contacts(ctx)
		if err != nil && len(endpoints) == 0 {
			return Start{}, err
		}
		endpoints = append(slices.Clone(found), endpoints...)
	}
	slices.Sort(endpoints)
	others, err := n.connect(slices.Compact(endpoints)...)
	if err != nil {
		return Start{}, err
	}
	defer others.close()
	for {
		list, err := others.list(ctx)
		if err != nil {
			return Start{}, err
		}
		todo := plan(n.probed(ctx, list), n.self)
		switch todo.action {
		case refuse:
			return Start{}, errors.New(todo.reason)
		case remove:
			log.Printf("removing the member %s from etcd: %s", todo.member.label(), todo.reason)
			if err := others.remove(ctx, todo.member); err != nil {
				return Start{}, err
			}
			continue // with the list that is now
		}
		id, list, err := others.addLearner(ctx, n.self.PeerURL)
		if err != nil {
			return Start{}, err
		}
		log.Printf("this server is a learner of etcd, one of %d members", len(list))
		if err := n.store(known{ID: id, Others: otherClients(list, id)}); err != nil {
			return Start{}, err
		}
		return Start{InitialCluster: initialCluster(list, n.self), Existing: true}, nil
	}
}

// probed finds out whether a member of this host's name at another address lives.
func (n *Node) probed(ctx context.Context, list []Member) []Member {
	for i, m := range list {
		if m.Name != n.self.Name || slices.Contains(m.PeerURLs, n.self.PeerURL) || len(m.ClientURLs) == 0 {
			continue
		}
		if c, err := n.connect(m.ClientURLs...); err == nil {
			_, err = c.status(ctx, m.ClientURLs[0])
			list[i].Answers = err == nil
			c.close()
		}
	}
	return list
}

// Voting returns when this host's etcd answers and votes. An API server is of no use
// before. It waits for a quorum without a limit: others may take any time to come back.
func (n *Node) Voting(ctx context.Context) error {
	// An etcd that knows no other never was a learner, and the API server waits for it
	// by itself: starting both together is faster.
	if k, err := n.load(); err != nil || len(k.Others) == 0 {
		return err
	}
	local, err := n.connect(n.local)
	if err != nil {
		return err
	}
	defer local.close()
	last, said := "", time.Now()
	for {
		err := n.vote(ctx, local)
		if err == nil {
			return nil
		}
		if time.Since(said) > sayEvery && err.Error() != last {
			last, said = err.Error(), time.Now()
			notify.Status("waiting for etcd: " + last)
			log.Printf("waiting for etcd: %v", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(voteEvery):
		}
	}
}

const voteEvery = 100 * time.Millisecond

func (n *Node) vote(ctx context.Context, local *client) error {
	own, err := local.status(ctx, n.local)
	if err != nil || !own.learner {
		return err
	}
	k, err := n.load()
	if err != nil {
		return err
	}
	others, err := n.connect(k.Others...)
	if err != nil {
		return err
	}
	defer others.close()
	if err := others.promote(ctx, own.id); err != nil {
		return err
	}
	log.Printf("this server votes in etcd")
	return nil
}

func (n *Node) load() (known, error) {
	var k known
	content, err := os.ReadFile(n.knownFile())
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err == nil {
		err = json.Unmarshal(content, &k)
	}
	if err != nil {
		return known{}, fmt.Errorf("could not read the known members of etcd in %s: %w", n.knownFile(), err)
	}
	return k, nil
}

// store keeps what is known; an unchanged file is not written.
func (n *Node) store(k known) error {
	content, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("could not encode the known members of etcd: %w", err)
	}
	if present, err := os.ReadFile(n.knownFile()); err == nil && string(present) == string(content) {
		return nil
	}
	return files.Replace(n.knownFile(), 0o600, content)
}
