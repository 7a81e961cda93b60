package fsyscall

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestUses(t *testing.T) {
	uses := []PathUse{
		{"/", UseListing}, {"/a", UseName}, {"/a/b.txt", UseContent}, {"/a/b.txtx", UseName | UseContent}, {"/b", UseListing}, {"/a", UseName},
	}
	packed := PackUses(uses)
	if packed[3].Shared != 8 || packed[3].Rest != "x" {
		t.Errorf("%+v", packed[3])
	}
	got, err := UnpackUses(packed)
	if err != nil || !slices.Equal(got, uses) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range [][]Use{
		{{1, "", UseName}}, {{0, "a", UseName}}, {{0, "/a/", UseName}}, {{0, "//a", UseName}}, {{0, "/a/../b", UseName}},
		{{0, "/a\x00", UseName}}, {{0, "", UseName}}, {{0, "/ab", UseName}, {4, "c", UseName}},
		{{0, "/" + strings.Repeat("a", MaxName+1), UseName}},
	} {
		if got, err := UnpackUses(bad); err == nil {
			t.Errorf("%v became %v", bad, got)
		}
	}
}

// What is packed always fits into a message.
func TestUsesAreBounded(t *testing.T) {
	var uses []PathUse
	for i := range 2 * MaxUses {
		uses = append(uses, PathUse{fmt.Sprintf("/%0200d", 7919*i%10007), UseName})
	}
	packed := PackUses(uses)
	b, err := AppendMessage(nil, Header{Kind: KindCall, Op: OpExec}, &Exec{Argv: []string{"x"}, Cwd: "/", Expected: packed})
	if err != nil || len(packed) < MaxUseBytes/201 || len(b) > MaxUseBytes+8*MaxUses {
		t.Errorf("%d uses, %d bytes, %v", len(packed), len(b), err)
	}
	if packed := PackUses(uses[:1]); len(packed) != 1 {
		t.Error(packed)
	}
}
