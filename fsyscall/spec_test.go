package fsyscall

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// rows returns the cells of the table in PROTOCOL.md whose heading starts with
// the given first column.
func rows(t *testing.T, first string) [][]string {
	t.Helper()
	text, err := os.ReadFile("PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	var found [][]string
	inside := false
	for _, line := range strings.Split(string(text), "\n") {
		if !strings.HasPrefix(line, "|") {
			inside = false
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		switch {
		case cells[0] == first:
			inside = true
		case inside && !strings.HasPrefix(cells[0], "-"):
			found = append(found, cells)
		}
	}
	if len(found) == 0 {
		t.Fatalf("PROTOCOL.md has no table with a first column %q", first)
	}
	return found
}

func typeName(m func() Message) string {
	if m == nil {
		return "–"
	}
	return reflect.TypeOf(m()).Elem().Name()
}

// TestSpecOperations holds the operation table of PROTOCOL.md to Table, row by
// row and in order.
func TestSpecOperations(t *testing.T) {
	ends := map[End]string{ToClient: "client", ToServer: "server"}
	yes := func(b bool) string {
		if b {
			return "yes"
		}
		return ""
	}
	spec := rows(t, "number")
	if len(spec) != len(Table) {
		t.Errorf("PROTOCOL.md has %d operations, the code %d", len(spec), len(Table))
	}
	for i, row := range Table {
		want := []string{
			fmt.Sprint(uint8(row.Op)), row.Name, ends[row.To], typeName(row.Request), typeName(row.Reply),
			yes(row.Mutates), yes(row.Idempotent), yes(row.Stream), yes(row.Blocks),
		}
		if i < len(spec) && !slices.Equal(spec[i], want) {
			t.Errorf("PROTOCOL.md has\n%q, the code\n%q", spec[i], want)
		}
	}
}

// TestSpecFields holds the list of fields of every message to what the
// encoder writes: which fields, of which type, in which order.
func TestSpecFields(t *testing.T) {
	want := map[string]string{}
	for _, row := range Table {
		for _, m := range []func() Message{row.Request, row.Reply} {
			if m != nil {
				want[typeName(m)] = wireFields(t, m)
			}
		}
	}
	for _, cells := range rows(t, "message") {
		if cells[1] != want[cells[0]] {
			t.Errorf("%s: PROTOCOL.md has\n%s, the code\n%s", cells[0], cells[1], want[cells[0]])
		}
		delete(want, cells[0])
	}
	for name, fields := range want {
		t.Errorf("PROTOCOL.md lacks\n| %s | %s |", name, fields)
	}
}

// TestSpecRecords holds the records that messages are made of to the code, by
// their sets of fields; their order on the wire is held by the literal bytes.
func TestSpecRecords(t *testing.T) {
	want := map[string][]string{}
	var visit func(v reflect.Type)
	visit = func(v reflect.Type) {
		switch v.Kind() {
		case reflect.Slice, reflect.Array:
			visit(v.Elem())
		case reflect.Struct:
			var fields []string
			for i := range v.NumField() {
				fields = append(fields, lowerFirst(v.Field(i).Name)+" "+wireType(v.Field(i).Type))
				visit(v.Field(i).Type)
			}
			slices.Sort(fields)
			want[v.Name()] = fields
		}
	}
	for _, row := range Table {
		for _, m := range []func() Message{row.Request, row.Reply} {
			if m != nil {
				v := reflect.TypeOf(m()).Elem()
				visit(v)
			}
		}
	}
	for _, row := range Table {
		for _, m := range []func() Message{row.Request, row.Reply} {
			delete(want, typeName(m))
		}
	}
	for _, cells := range rows(t, "record") {
		fields := strings.Split(cells[1], ", ")
		slices.Sort(fields)
		if !slices.Equal(fields, want[cells[0]]) {
			t.Errorf("%s: PROTOCOL.md has\n%q, the code\n%q", cells[0], fields, want[cells[0]])
		}
		delete(want, cells[0])
	}
	for name, fields := range want {
		t.Errorf("PROTOCOL.md lacks\n| %s | %s |", name, strings.Join(fields, ", "))
	}
}

// wireFields describes a message's fields in the order of the wire. The order
// is observed, not assumed: each field in turn is set in an otherwise plain
// message, and the first byte that changes tells where it lies.
func wireFields(t *testing.T, fresh func() Message) string {
	t.Helper()
	plain := fresh()
	n := reflect.ValueOf(plain).Elem().NumField()
	type place struct {
		at   int
		text string
	}
	var places []place
	for i := range n {
		m := fresh()
		v := reflect.ValueOf(m).Elem()
		setAll(v.Field(i))
		at := firstDifference(looseBytes(plain), looseBytes(m))
		if at < 0 {
			t.Fatalf("%s.%s is not encoded", v.Type().Name(), v.Type().Field(i).Name)
		}
		places = append(places, place{at, lowerFirst(v.Type().Field(i).Name) + " " + wireType(v.Field(i).Type())})
	}
	slices.SortFunc(places, func(a, b place) int { return a.at - b.at })
	var texts []string
	for _, p := range places {
		texts = append(texts, p.text)
	}
	return strings.Join(texts, ", ")
}

// looseBytes encodes without minding bounds. A Hello must have the right
// version to be encoded whole.
func looseBytes(m Message) []byte {
	if h, ok := m.(*Hello); ok && h.Version != ^uint16(0) {
		h.Version = Version
	}
	c := coder{}
	m.fields(&c)
	return c.buf
}

func firstDifference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	if len(a) != len(b) {
		return min(len(a), len(b))
	}
	return -1
}

// setAll gives every leaf of v a value whose first encoded byte is not zero.
func setAll(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(^uint64(0) >> (64 - v.Type().Bits()))
	case reflect.Int32, reflect.Int64:
		v.SetInt(-1)
	case reflect.String:
		v.SetString("x")
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
	case reflect.Array:
		for i := range v.Len() {
			setAll(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			setAll(v.Field(i))
		}
	}
}

func lowerFirst(s string) string {
	if s == "IDs" {
		return "ids"
	}
	upper := regexp.MustCompile(`^[A-Z]+`).FindString(s)
	if len(upper) > 1 && len(upper) < len(s) {
		upper = upper[:len(upper)-1]
	}
	return strings.ToLower(upper) + s[len(upper):]
}

// wireType is the notation of PROTOCOL.md for a Go type.
func wireType(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[NodeID]():
		return "node"
	case reflect.TypeFor[FileID]():
		return "file"
	case reflect.TypeFor[[]byte]():
		return "bytes"
	}
	switch t.Kind() {
	case reflect.Slice:
		return "list of " + wireType(t.Elem())
	case reflect.Array:
		return fmt.Sprintf("%d × %s", t.Len(), wireType(t.Elem()))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprintf("u%d", t.Bits())
	case reflect.Int32, reflect.Int64:
		return fmt.Sprintf("i%d", t.Bits())
	}
	return t.Name()
}
