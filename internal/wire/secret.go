package wire

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
)

// NewSecret makes what a reader proves by that a word is its own. Its requests and credits carry the secret, which
// coordinators hear and no other role; its record and its status carry [ReaderOf] it, which all may read.
func NewSecret() string { return rand.Text() }

// ReaderOf is the name of the reader that has a secret: 128 bits of its SHA-256.
func ReaderOf(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:16])
}
