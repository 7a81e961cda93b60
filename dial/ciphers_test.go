package dial

import (
	"os"
	"regexp"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/crypto/ssh"
)

// TestCipherOrder: the cipher that is fastest on this processor comes first,
// and no cipher is offered on one kind of processor only.
func TestCipherOrder(t *testing.T) {
	with, without := cipherOrder(true), cipherOrder(false)
	if with[0] != ssh.CipherAES128GCM || without[0] != ssh.CipherChaCha20Poly1305 {
		t.Errorf("first %s with AES, %s without", with[0], without[0])
	}
	slices.Sort(with)
	slices.Sort(without)
	if !slices.Equal(with, without) {
		t.Errorf("%q and %q", with, without)
	}
}

// TestHasAES holds the detection to what the kernel says.
func TestHasAES(t *testing.T) {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	other := map[string]string{"amd64": `\bpclmulqdq\b`, "arm64": `\bpmull\b`}[runtime.GOARCH]
	want := regexp.MustCompile(`\baes\b`).Match(text) && regexp.MustCompile(other).Match(text)
	if hasAES() != want {
		t.Errorf("%v, and the kernel says %v", hasAES(), want)
	}
}
