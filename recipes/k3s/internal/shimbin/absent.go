//go:build !embedshim

package shimbin

// Without the file, for tests and vet: an empty shim, which containerd cannot run.
var compressed []byte
