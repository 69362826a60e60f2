//go:build armbe || arm64be || m68k || mips || mips64 || mips64p32 || ppc || ppc64 || s390 || s390x || shbe || sparc || sparc64

package schema

// Tensors are little-endian on the wire and are viewed in place, so a processor of the other kind would train on
// noise. The build fails here, with this text, rather than there.
var _ int = "jetbatch views little-endian tensors in place and cannot run on a big-endian processor"
