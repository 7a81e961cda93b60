package fsyscall

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
)

// wireCase holds a message to its literal bytes.
type wireCase struct {
	name string
	head Header
	body Message // nil: no body
	// want is hexadecimal; blanks separate the header and the fields.
	want string
}

// allCases has the cases of every family; the fuzz seeds come from here.
func allCases() []wireCase {
	var all []wireCase
	for _, family := range [][]wireCase{sessionCases(), namingCases(), readingCases(), changingCases(), lockCases()} {
		all = append(all, family...)
	}
	return all
}

func wireBytes(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return b
}

// checkCases encodes and decodes each case and compares with its bytes.
func checkCases(t *testing.T, cases []wireCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			want := wireBytes(t, c.want)
			got, err := AppendMessage(nil, c.head, c.body)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("encoded as\n%x, want\n%x", got, want)
			}
			head, rest, err := ParseHeader(want)
			if err != nil {
				t.Fatal(err)
			}
			if head != c.head {
				t.Fatalf("header %+v, want %+v", head, c.head)
			}
			body := head.NewBody()
			if body == nil {
				if c.body != nil || len(rest) != 0 {
					t.Fatalf("no body where %d bytes are one", len(rest))
				}
				return
			}
			if err := Decode(rest, body); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(body, c.body) {
				t.Fatalf("decoded as\n%+v, want\n%+v", body, c.body)
			}
		})
	}
}

func call(op Op, tag uint32) Header  { return Header{Kind: KindCall, Op: op, Tag: tag} }
func reply(op Op, tag uint32) Header { return Header{Kind: KindReply, Op: op, Tag: tag} }
func notice(op Op) Header            { return Header{Kind: KindNotice, Op: op} }

// TestEveryMessageHasBytes fails when an operation's request or reply has no
// case in any family.
func TestEveryMessageHasBytes(t *testing.T) {
	type half struct {
		op    Op
		reply bool
	}
	seen := map[half]bool{}
	for _, c := range allCases() {
		seen[half{c.head.Op, c.head.Kind == KindReply || c.head.Kind == KindMore}] = true
	}
	for _, row := range Table {
		if !seen[half{row.Op, false}] {
			t.Errorf("%s: no request among the cases", row.Name)
		}
		if row.Reply != nil && !seen[half{row.Op, true}] {
			t.Errorf("%s: no reply among the cases", row.Name)
		}
	}
}

// A sample inode; sampleAttrHex is its encoding, field by field.
func sampleAttr() Attr {
	return Attr{
		Ino: 0x1122334455667788, Dev: 0x801, Mode: 0o100644, Nlink: 2, UID: 1000, GID: 100,
		Rdev: 0x0103, Size: 5_000_000_000, Blocks: 9_765_632,
		Atime: Time{Sec: 1, Nsec: 2}, Mtime: Time{Sec: -1, Nsec: 999_999_999}, Ctime: Time{Sec: 1 << 33},
		Access: 6, Flags: AttrReadOnly | AttrUnwatched | AttrSettled,
	}
}

const sampleAttrHex = ` 8877665544332211 0108000000000000 a4810000 02000000 e8030000 64000000
	0301000000000000 00f2052a01000000 0003950000000000
	0100000000000000 02000000 ffffffffffffffff ffc99a3b 0000000002000000 00000000 06 13 `
