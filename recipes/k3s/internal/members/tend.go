package members

import (
	"context"
	"log"
	"slices"
	"time"
)

const (
	tendEvery = 30 * time.Second
	// patience is how long a learner may keep its place without ever starting: a join
	// needs seconds from there, and as long as it lasts no other server can join. It is
	// below joinLimit, so that a server that waits for the place gets it.
	patience = 2 * time.Minute
)

// Tend keeps what is known of the other members up to date and gives up learners that
// never started, until the context ends.
func (n *Node) Tend(ctx context.Context) {
	firstSeen := map[uint64]time.Time{}
	last := ""
	for {
		err := n.tend(ctx, firstSeen)
		switch {
		case err == nil:
			last = ""
		case ctx.Err() == nil && err.Error() != last:
			last = err.Error()
			log.Printf("could not look after the members of etcd: %v", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(tendEvery):
		}
	}
}

func (n *Node) tend(ctx context.Context, firstSeen map[uint64]time.Time) error {
	local, err := n.connect(n.local)
	if err != nil {
		return err
	}
	defer local.close()
	own, err := local.status(ctx, n.local)
	if err != nil {
		return err
	}
	list, err := local.list(ctx)
	if err != nil {
		return err
	}
	if err := n.store(known{ID: own.id, Others: otherClients(list, own.id)}); err != nil {
		return err
	}
	now := time.Now()
	for id := range firstSeen {
		if !slices.ContainsFunc(list, func(m Member) bool { return m.ID == id }) {
			delete(firstSeen, id)
		}
	}
	for _, m := range list {
		if _, ok := firstSeen[m.ID]; !ok {
			firstSeen[m.ID] = now
		}
	}
	if dead, ok := abandoned(list, firstSeen, now, patience); ok && own.leads {
		log.Printf("removing the learner %s from etcd: it has not started for %s", dead.label(), patience)
		return local.remove(ctx, dead)
	}
	return nil
}

// Remove takes the member of another server away, if there is one; this host's own votes
// and stays. etcd itself refuses what would cost the quorum.
func (n *Node) Remove(ctx context.Context, name string) error {
	local, err := n.connect(n.local)
	if err != nil {
		return err
	}
	defer local.close()
	list, err := local.list(ctx)
	if err != nil {
		return err
	}
	for _, m := range list {
		if m.Name != name {
			continue
		}
		if err := local.remove(ctx, m); err != nil {
			return err
		}
		log.Printf("removed the server %s from etcd", name)
	}
	return nil
}

// Alone says whether no other server votes in etcd.
func (n *Node) Alone(ctx context.Context) (bool, error) {
	list, err := n.listAt(ctx, n.local)
	if err != nil {
		return false, err
	}
	return !slices.ContainsFunc(list, func(m Member) bool { return m.Name != n.self.Name && !m.Learner }), nil
}
