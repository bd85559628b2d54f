// Package shimbin carries containerd-shim-runc-v2 inside the k3s binary, as k3s
// does. It only holds the bytes.
package shimbin

// Compressed is the shim's executable, zstd-compressed.
func Compressed() []byte { return compressed }
