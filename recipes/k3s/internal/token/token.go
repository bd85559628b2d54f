// Package token reads and writes k3s's join tokens and derives from them the
// Kubernetes bootstrap token that a joining kubelet authenticates with.
//
// A token is one of
//
//	SECRET                        the shared secret alone
//	K10<CA hash>::USER:SECRET     what node-token holds
//	K10<CA hash>::ID.SECRET       a Kubernetes bootstrap token, pinned
//	ID.SECRET                     a Kubernetes bootstrap token
//
// The CA hash is the SHA-256 of the server CA's PEM file, hexadecimal.
package token

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

const (
	prefix = "K10"
	// The bootstrap token's signature over the cluster's public facts can be read
	// without authentication, so a guessable secret must be slow to guess.
	iterations = 100_000
	keyLength  = 32
	minSecret  = 12
)

// The users that k3s writes into its tokens: who joins by it.
const (
	ServerUser = "server"
	AgentUser  = "node"
)

var bootstrap = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)

// Token is a parsed join token.
type Token struct {
	// CAHash pins the server's CA; empty when the token does not say.
	CAHash string
	// User is who the token says that it is for; empty when it does not say.
	User   string
	Secret string
}

// Parse reads any of the forms above.
func Parse(text string) (Token, error) {
	t := Token{Secret: strings.TrimSpace(text)}
	if strings.HasPrefix(t.Secret, prefix) {
		hash, credential, found := strings.Cut(t.Secret[len(prefix):], "::")
		if raw, err := hex.DecodeString(hash); !found || err != nil || len(raw) != sha256.Size {
			return Token{}, errors.New("the token begins with K10 but is not K10<SHA-256>::<credential>")
		}
		t.CAHash = strings.ToLower(hash)
		if user, secret, found := strings.Cut(credential, ":"); found {
			t.User, credential = user, secret
		}
		t.Secret = credential
	}
	if len(t.Secret) < minSecret {
		return Token{}, fmt.Errorf("the token's secret is shorter than %d characters", minSecret)
	}
	return t, nil
}

// Generate makes a new shared secret of 128 bits.
func Generate() string {
	raw := make([]byte, 16)
	_, _ = rand.Read(raw) // never fails: crypto/rand ends the process instead
	return hex.EncodeToString(raw)
}

// Full is what a user's token file holds for this secret and server CA.
func (t Token) Full(user string, caPEM []byte) string {
	credential := user + ":" + t.Secret
	if bootstrap.MatchString(t.Secret) {
		credential = t.Secret
	}
	return prefix + Hash(caPEM) + "::" + credential
}

// Hash is the CA hash of a PEM file's content.
func Hash(caPEM []byte) string {
	sum := sha256.Sum256(caPEM)
	return hex.EncodeToString(sum[:])
}

// CheckCA refuses a CA that is not the pinned one; without a pin any passes.
func (t Token) CheckCA(caPEM []byte) error {
	if t.CAHash == "" {
		return nil
	}
	if subtle.ConstantTimeCompare([]byte(Hash(caPEM)), []byte(t.CAHash)) != 1 {
		return errors.New("the server's CA is not the one that the token names: the token is of another cluster, or something stands between this node and the server")
	}
	return nil
}

// Bootstrap gives the Kubernetes bootstrap token: the secret itself when it has
// that form, otherwise one derived from it, the same on server and agent.
func (t Token) Bootstrap() (id, secret string, err error) {
	if parts := bootstrap.FindStringSubmatch(t.Secret); parts != nil {
		return parts[1], parts[2], nil
	}
	key, err := t.Key([]byte("k3s bootstrap token"))
	if err != nil {
		return "", "", err
	}
	letters := strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(key))
	return letters[:6], letters[6:22], nil
}

// Key derives a key of 256 bits from the secret. Another salt gives a key that says
// nothing about this one.
func (t Token) Key(salt []byte) ([]byte, error) {
	key, err := pbkdf2.Key(sha256.New, t.Secret, salt, iterations, keyLength)
	if err != nil {
		return nil, fmt.Errorf("could not derive a key from the token: %w", err)
	}
	return key, nil
}
