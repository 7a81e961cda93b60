package fsyscall

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// reencode decodes b and, where it is accepted, returns what encoding the
// result gives. ok is false for input that is refused, and for the one message
// that is decoded without its tail by design: a Hello of another protocol
// version, whose receiver only needs the version to answer with a Fatal.
func reencode(t *testing.T, b []byte) (again []byte, ok bool) {
	t.Helper()
	head, rest, err := ParseHeader(b)
	if err != nil {
		if !errors.Is(err, ErrMalformed) {
			t.Fatalf("header refused with %v, which does not wrap ErrMalformed", err)
		}
		return nil, false
	}
	body := head.NewBody()
	if body != nil {
		if err := Decode(rest, body); err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("body refused with %v, which does not wrap ErrMalformed", err)
			}
			return nil, false
		}
	}
	if h, isHello := body.(*Hello); isHello && h.Version != Version {
		return nil, false
	}
	again, err = AppendMessage(nil, head, body)
	if err != nil {
		t.Fatalf("%+v was accepted and cannot be encoded: %v", body, err)
	}
	return again, true
}

// FuzzLaw holds the codec to its law: what is accepted re-encodes to the same
// bytes. The seeds are the literal messages of every family.
func FuzzLaw(f *testing.F) {
	seeds := allCases()
	if len(seeds) < 2*len(Table)-20 {
		f.Fatalf("%d seeds for %d operations", len(seeds), len(Table))
	}
	for _, c := range seeds {
		f.Add(wireBytes(f, c.want))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		again, ok := reencode(t, b)
		if ok && !bytes.Equal(again, b) {
			t.Fatalf("%x\nwas accepted and re-encodes to\n%x", b, again)
		}
	})
}

// TestDamaged cuts every message at every length, lengthens it, and changes
// every byte of it: each result is refused or obeys the law.
func TestDamaged(t *testing.T) {
	for _, c := range allCases() {
		b := wireBytes(t, c.want)
		hello := c.head.Op == OpHello
		for n := range b {
			if again, ok := reencode(t, b[:n]); ok && !bytes.Equal(again, b[:n]) {
				t.Errorf("%s cut to %d bytes is accepted", c.name, n)
			}
		}
		if _, ok := reencode(t, append(bytes.Clone(b), 0)); ok {
			t.Errorf("%s with a byte too many is accepted", c.name)
		}
		for i := range b {
			for _, v := range []byte{0, 1, 0x7f, 0x80, 0xff} {
				d := bytes.Clone(b)
				d[i] = v
				if again, ok := reencode(t, d); ok && !bytes.Equal(again, d) {
					t.Errorf("%s with byte %d set to %#x re-encodes otherwise", c.name, i, v)
				}
			}
		}
		if hello {
			d := bytes.Clone(b)
			d[HeaderSize] = 99
			var h Hello
			if err := Decode(d[HeaderSize:], &h); err != nil || h.Version != 99 {
				t.Errorf("a hello of version 99: version %d, %v", h.Version, err)
			}
		}
	}
}

// TestRefused has a message beyond each bound, encoded and decoded.
func TestRefused(t *testing.T) {
	long := strings.Repeat("x", MaxName+1)
	huge := make([]byte, MaxData+1)
	cases := []struct {
		name string
		body Message
	}{
		{"empty name", &Lookup{Dir: 1, ID: 2}},
		{"dot", &Lookup{Dir: 1, Name: ".", ID: 2}},
		{"dot dot", &Unlink{Dir: 1, Name: ".."}},
		{"slash in a name", &Mkdir{Dir: 1, Name: "a/b", ID: 2}},
		{"NUL in a name", &Rmdir{Dir: 1, Name: "a\x00b"}},
		{"name of 256 bytes", &Lookup{Dir: 1, Name: long, ID: 2}},
		{"second name of a rename", &Rename{Dir: 1, Name: "a", NewDir: 1, NewName: ".."}},
		{"target over PATH_MAX", &Symlink{Dir: 1, Name: "s", ID: 2, Target: strings.Repeat("t", MaxTarget+1)}},
		{"data over MaxData", &Write{File: 1, Data: huge}},
		{"read over MaxData", &Read{File: 1, Size: MaxData + 1}},
		{"inline over MaxData", &Open{ID: 1, File: 1, Inline: MaxData + 1}},
		{"digest over MaxDigest", &Digest{ID: 1, Size: MaxDigest + 1}},
		{"fetch over MaxData", &Fetch{ID: 1, Size: MaxData + 1}},
		{"xattr over its bound", &SetXattr{ID: 1, Name: "user.a", Value: huge[:MaxXattr+1]}},
		{"xattr flags", &SetXattr{ID: 1, Name: "user.a", Flags: 4}},
		{"open flag O_CREAT", &Open{ID: 1, File: 1, Flags: 0o100}},
		{"access mode 3", &Open{ID: 1, File: 1, Flags: 3}},
		{"access mask", &Access{ID: 1, Mask: 8}},
		{"nanoseconds", &Release{File: 1, Mtime: Time{Nsec: 1e9}}},
		{"mode with a type", &Create{Dir: 1, Name: "a", ID: 2, File: 1, Mode: 0o100644}},
		{"mode beyond a type", &Mknod{Dir: 1, Name: "a", ID: 2, Mode: 1 << 16}},
		{"setattr mask", &SetAttr{ID: 1, Mask: 1 << 8}},
		{"rename flag WHITEOUT", &Rename{Dir: 1, Name: "a", NewDir: 1, NewName: "b", Flags: 4}},
		{"rename flags together", &Rename{Dir: 1, Name: "a", NewDir: 1, NewName: "b", Flags: 3}},
		{"lock type", &SetLock{File: 1, Lock: Lock{Type: 3}}},
		{"lock range backwards", &SetLock{File: 1, Lock: Lock{Start: 2, End: 1}}},
		{"lock range negative", &SetLock{File: 1, Lock: Lock{End: 1 << 63}}},
		{"slot", &StdioNode{Slot: 3, ID: 1}},
		{"too many forgotten", &Forget{IDs: make([]NodeID, MaxForget+1)}},
		{"revocation of nothing", &Revoke{Items: []Revocation{{Node: 1}}}},
		{"revoked path", &Revoke{Items: []Revocation{{Node: 1, Name: "a/b", What: RevokeEntry}}}},
		{"signal 0", &Signal{Cmd: 1}},
		{"signal 65", &Signal{Cmd: 1, Sig: 65}},
		{"command number", &Exec{Cmd: MaxCommand}},
		{"umask", &Exec{Umask: 0o1000}},
		{"stream kind", &Exec{Stdio: [3]Stdio{{Kind: 5}}}},
		{"duplicate of a later stream", &Exec{Stdio: [3]Stdio{{DupOf: 2}}}},
		{"failure without an error number", &ExecReply{Stage: ExecCwd}},
		{"success with an error number", &ExecReply{Errno: 2}},
		{"too many uses", &Exec{Expected: make([]Use, MaxUses+1)}},
		{"use of nothing", &Exec{Expected: []Use{{Rest: "/a"}}}},
		{"unknown use", &Exit{Used: []Use{{Rest: "/a", What: 8}}}},
		{"too many lost writes", &Exit{Lost: make([]LostWrite, MaxLost+1)}},
		{"attribute flags", &AttrReply{Attr: Attr{Flags: 0x80}}},
		{"attribute access", &AttrReply{Attr: Attr{Access: 8}}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			// The encoder's own refusal.
			if b, err := AppendMessage([]byte("kept"), notice(OpBye), c.body); !errors.Is(err, ErrMalformed) || string(b) != "kept" {
				t.Errorf("encoded as %.40q, %v", b, err)
			}
			// The decoder's, fed with what an encoder without bounds writes.
			lax := coder{}
			for _, row := range Table {
				for _, fresh := range []func() Message{row.Request, row.Reply} {
					if fresh == nil || reflect.TypeOf(fresh()) != reflect.TypeOf(c.body) {
						continue
					}
					lax.buf, lax.err = nil, nil
					c.body.fields(&lax)
					if err := Decode(lax.buf, fresh()); !errors.Is(err, ErrMalformed) {
						t.Errorf("%s: decoded without complaint: %v", row.Name, err)
					}
				}
			}
		})
	}
}

// TestLongLists sends counts and lengths that promise more than there is: the
// decoder must refuse them before it makes room for them.
func TestLongLists(t *testing.T) {
	big := binary.LittleEndian.AppendUint32(nil, 1<<32-1)
	if err := Decode(big, &Forget{}); !errors.Is(err, ErrMalformed) {
		t.Error("2^32-1 names in four bytes:", err)
	}
	if err := Decode(big, &Data{}); !errors.Is(err, ErrMalformed) {
		t.Error("2^32-1 bytes in none:", err)
	}
	allocated := testing.AllocsPerRun(10, func() {
		if Decode(big, &Forget{}) == nil {
			t.Error("accepted")
		}
	})
	if allocated > 20 {
		t.Errorf("%v allocations to refuse a message of four bytes", allocated)
	}
}

// TestHeaderRefused has a header that breaks each rule of ParseHeader.
func TestHeaderRefused(t *testing.T) {
	for name, b := range map[string]string{
		"short":                       "01 20 00 0000 000000",
		"kind 0":                      "00 20 00 0000 00000000",
		"kind 5":                      "05 20 00 0000 00000000",
		"operation without a row":     "01 ff 00 0000 00000000",
		"lease flag 2":                "02 20 02 0000 00000000",
		"leased call":                 "01 20 01 0000 00000000",
		"error in a call":             "01 20 00 0200 00000000",
		"notice of a call":            "04 20 00 0000 00000000",
		"call of a notice":            "01 70 00 0000 00000000",
		"tag in a notice":             "04 70 00 0000 01000000",
		"more of a single reply":      "03 20 00 0000 01000000",
		"error in one of many":        "03 22 00 0200 01000000",
		"error reply that has a body": "02 20 00 0200 01000000 00",
	} {
		if _, _, err := ParseHeader(wireBytes(t, b)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := ParseHeader(make([]byte, MaxMessage+1)); !errors.Is(err, ErrMalformed) {
		t.Error("a message over the bound:", err)
	}
}
