package component

import (
	"slices"
	"testing"
)

func TestOperatorFlagsReplaceOursAndPluginsAdd(t *testing.T) {
	own := []string{"--a=1", "--enable-admission-plugins=NodeRestriction", "--c=3"}
	got := Merge(own, []string{"a=2", "--enable-admission-plugins=PodNodeSelector", "flag"})
	expected := []string{
		"--enable-admission-plugins=NodeRestriction", "--c=3",
		"--a=2", "--enable-admission-plugins=PodNodeSelector", "--flag",
	}
	if !slices.Equal(got, expected) {
		t.Errorf("got %q", got)
	}
}

func TestTheLastValueOfAFlagCounts(t *testing.T) {
	value, found := Value([]string{"cgroup-driver=systemd", "--cgroup-driver=cgroupfs"}, "cgroup-driver")
	if !found || value != "cgroupfs" {
		t.Errorf("got %q %v", value, found)
	}
	if _, found := Value([]string{"other=1"}, "cgroup-driver"); found {
		t.Error("found what is not there")
	}
}
