package members

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Member is an entry of etcd's member list.
type Member struct {
	ID uint64
	// Name is empty until the member's etcd has run for the first time.
	Name       string
	PeerURLs   []string
	ClientURLs []string
	Learner    bool
	// Answers says that an etcd answered at a client URL. It is asked only of a
	// member that has this host's name and another's address.
	Answers bool
}

// Self is what this host's member is called and where the others reach it.
type Self struct{ Name, PeerURL string }

type action int

const (
	add action = iota
	remove
	refuse
)

type step struct {
	action action
	member Member
	reason string
}

// plan says what has to be done before an etcd without data can start as a member.
//
// An entry that this host left behind is never used again: its former data may hold
// what the leader believes to be acknowledged, and a member that forgot it would break
// the consensus. It is removed and a new one added, also when its etcd never ran.
func plan(list []Member, self Self) step {
	for _, m := range list {
		here := slices.Contains(m.PeerURLs, self.PeerURL)
		switch {
		case here && (m.Name == "" || m.Name == self.Name):
			return step{remove, m, "this host left it behind without data"}
		case here:
			return step{refuse, m, fmt.Sprintf("%s is the address of the server %s, which is a member: delete its Node first", self.PeerURL, m.Name)}
		case m.Name != self.Name:
		case m.Answers:
			return step{refuse, m, fmt.Sprintf("a server named %s runs at %s: node-name has to differ", m.Name, strings.Join(m.PeerURLs, ","))}
		default:
			return step{remove, m, "a server of this name was at another address and does not answer"}
		}
	}
	return step{action: add}
}

// initialCluster is etcd's flag for joining: it has to name every member there is.
func initialCluster(list []Member, self Self) string {
	var parts []string
	for _, m := range list {
		name := m.Name
		switch {
		case slices.Contains(m.PeerURLs, self.PeerURL):
			name = self.Name
		case name == "" || name == self.Name:
			name = strconv.FormatUint(m.ID, 16)
		}
		for _, url := range m.PeerURLs {
			parts = append(parts, name+"="+url)
		}
	}
	return strings.Join(parts, ",")
}

// abandoned finds the learner that takes the only place for one and has not started
// for longer than patience: its host was switched off while it joined.
func abandoned(list []Member, firstSeen map[uint64]time.Time, now time.Time, patience time.Duration) (Member, bool) {
	for _, m := range list {
		if seen, ok := firstSeen[m.ID]; ok && m.Learner && m.Name == "" && now.Sub(seen) > patience {
			return m, true
		}
	}
	return Member{}, false
}

// otherClients are the client URLs of every voting member but one: a learner answers
// no questions about the members.
func otherClients(list []Member, id uint64) []string {
	urls := []string{}
	for _, m := range list {
		if m.ID != id && !m.Learner {
			urls = append(urls, m.ClientURLs...)
		}
	}
	slices.Sort(urls)
	return slices.Compact(urls)
}
