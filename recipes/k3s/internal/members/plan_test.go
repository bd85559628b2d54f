package members

import (
	"slices"
	"testing"
	"time"
)

var self = Self{Name: "b", PeerURL: "https://10.0.0.2:2380"}

func member(id uint64, name, address string) Member {
	return Member{ID: id, Name: name, PeerURLs: []string{"https://" + address + ":2380"}, ClientURLs: []string{"https://" + address + ":2379"}}
}

func TestWhatAnEtcdWithoutDataDoesFirst(t *testing.T) {
	a := member(1, "a", "10.0.0.1")
	answering := member(2, "b", "10.0.0.9")
	answering.Answers = true
	for name, test := range map[string]struct {
		list   []Member
		action action
		id     uint64
	}{
		"it is added": {[]Member{a}, add, 0},
		"another's unstarted learner is left alone":       {[]Member{a, member(2, "", "10.0.0.3")}, add, 0},
		"added before and never started":                  {[]Member{a, member(2, "", "10.0.0.2")}, remove, 2},
		"started before and its data lost":                {[]Member{a, member(2, "b", "10.0.0.2")}, remove, 2},
		"a dead server of this name was elsewhere":        {[]Member{a, member(2, "b", "10.0.0.9")}, remove, 2},
		"a running server has this name":                  {[]Member{a, answering}, refuse, 2},
		"another server has this address":                 {[]Member{a, member(2, "c", "10.0.0.2")}, refuse, 2},
		"a refusal does not depend on what is named last": {[]Member{member(2, "c", "10.0.0.2"), a}, refuse, 2},
	} {
		t.Run(name, func(t *testing.T) {
			got := plan(test.list, self)
			if got.action != test.action || got.member.ID != test.id {
				t.Errorf("got %+v", got)
			}
			if (got.reason == "") != (test.action == add) {
				t.Errorf("the reason is %q", got.reason)
			}
		})
	}
}

func TestTheInitialClusterNamesEveryMember(t *testing.T) {
	list := []Member{member(0xa1, "a", "10.0.0.1"), member(2, "", "10.0.0.2"), member(0xc3, "", "10.0.0.3"), member(0xd4, "b", "10.0.0.4")}
	expected := "a=https://10.0.0.1:2380,b=https://10.0.0.2:2380,c3=https://10.0.0.3:2380,d4=https://10.0.0.4:2380"
	if got := initialCluster(list, self); got != expected {
		t.Errorf("got %s", got)
	}
}

func TestOnlyALearnerThatNeverRanIsGivenUp(t *testing.T) {
	now := time.Unix(1000, 0)
	seen := map[uint64]time.Time{1: now.Add(-time.Hour), 2: now.Add(-time.Hour), 3: now.Add(-time.Hour), 4: now.Add(-time.Minute)}
	voter, running, dead, young := member(1, "", "10.0.0.1"), member(2, "b", "10.0.0.2"), member(3, "", "10.0.0.3"), member(4, "", "10.0.0.4")
	running.Learner, dead.Learner, young.Learner = true, true, true
	if got, ok := abandoned([]Member{voter, running, young, dead}, seen, now, 5*time.Minute); !ok || got.ID != 3 {
		t.Errorf("got %+v, %v", got, ok)
	}
	if got, ok := abandoned([]Member{voter, running, young}, seen, now, 5*time.Minute); ok {
		t.Errorf("gave up %+v", got)
	}
}

func TestOnlyVotersAreAskedAboutTheMembers(t *testing.T) {
	a, b := member(1, "a", "10.0.0.1"), member(2, "b", "10.0.0.2")
	if got := otherClients([]Member{b, a}, 1); !slices.Equal(got, []string{"https://10.0.0.2:2379"}) {
		t.Errorf("got %q", got)
	}
	b.Learner = true
	if got := otherClients([]Member{b, a}, 1); len(got) != 0 {
		t.Errorf("a learner is asked: %q", got)
	}
}
