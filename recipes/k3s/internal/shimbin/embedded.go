//go:build embedshim

package shimbin

import _ "embed"

// build.sh puts the file here, made from the same go.mod.
//
//go:embed containerd-shim-runc-v2.zst
var compressed []byte
