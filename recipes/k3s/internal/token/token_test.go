package token

import (
	"regexp"
	"strings"
	"testing"
)

var ca = []byte("-----BEGIN CERTIFICATE-----\n...\n")

func TestANodeTokenReadsBackAsItsSecretAndPin(t *testing.T) {
	for _, secret := range []string{"a passphrase of some length", "abcdef.0123456789abcdef"} {
		first, err := Parse(secret)
		if err != nil {
			t.Fatal(err)
		}
		second, err := Parse(first.Full(ServerUser, ca) + "\n")
		if err != nil {
			t.Fatal(err)
		}
		if second.Secret != secret || second.CAHash != Hash(ca) {
			t.Errorf("%q became %+v", secret, second)
		}
	}
}

func TestServerAndAgentDeriveTheSameBootstrapToken(t *testing.T) {
	server, _ := Parse("a passphrase of some length")
	agent, _ := Parse(server.Full(ServerUser, ca))
	id, secret, err := server.Bootstrap()
	if err != nil {
		t.Fatal(err)
	}
	if agentID, agentSecret, _ := agent.Bootstrap(); agentID != id || agentSecret != secret {
		t.Error("they differ")
	}
	if !regexp.MustCompile(`^[a-z0-9]{6}$`).MatchString(id) || !regexp.MustCompile(`^[a-z0-9]{16}$`).MatchString(secret) {
		t.Errorf("%s.%s is no bootstrap token", id, secret)
	}
}

func TestABootstrapTokenStaysWhatItIs(t *testing.T) {
	parsed, _ := Parse("abcdef.0123456789abcdef")
	if id, secret, _ := parsed.Bootstrap(); id != "abcdef" || secret != "0123456789abcdef" {
		t.Errorf("got %s.%s", id, secret)
	}
}

func TestThePinIsChecked(t *testing.T) {
	parsed, _ := Parse("K10" + Hash(ca) + "::server:0123456789abcdef")
	if err := parsed.CheckCA(ca); err != nil {
		t.Error(err)
	}
	if parsed.CheckCA([]byte("another")) == nil {
		t.Error("another CA was accepted")
	}
	if unpinned, _ := Parse("0123456789abcdef"); unpinned.CheckCA([]byte("any")) != nil {
		t.Error("a token without a pin refused a CA")
	}
}

func TestMalformedTokensAreRefusedWithoutShowingThem(t *testing.T) {
	for _, text := range []string{"", "tiny", "K10xyz::server:0123456789abcdef", "K10" + Hash(ca)} {
		if _, err := Parse(text); err == nil {
			t.Errorf("%q was accepted", text)
		} else if text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("the error shows the token: %v", err)
		}
	}
}

func TestATokenSaysWhomItIsFor(t *testing.T) {
	for user, text := range map[string]string{
		ServerUser: "K10" + Hash(ca) + "::server:0123456789abcdef",
		AgentUser:  "K10" + Hash(ca) + "::node:0123456789abcdef",
		"":         "K10" + Hash(ca) + "::abcdef.0123456789abcdef",
	} {
		parsed, err := Parse(text)
		if err != nil || parsed.User != user {
			t.Errorf("%s: got %q, %v", text, parsed.User, err)
		}
		if parsed.Full(user, ca) != text {
			t.Errorf("%s became %s", text, parsed.Full(user, ca))
		}
	}
}

func TestKeysOfOneSecretDifferByTheirSalt(t *testing.T) {
	parsed, _ := Parse("0123456789abcdef")
	first, err := parsed.Key([]byte("a"))
	if err != nil || len(first) != keyLength {
		t.Fatalf("got %d bytes, %v", len(first), err)
	}
	if second, _ := parsed.Key([]byte("b")); string(first) == string(second) {
		t.Error("they are the same")
	}
}
