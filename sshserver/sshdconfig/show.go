package sshdconfig

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// manyLines are keywords that -T shows one argument a line.
func manyLines(k *keyword) bool { return k.Many }

// quoteWord writes a word so that it reads back as itself.
func quoteWord(w string) string {
	if w != "" && !strings.ContainsAny(w, " \t\"'\\#=\f\r") {
		return w
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(w) + `"`
}

// Write writes the settings in a form that can be read again, a keyword in
// lower case on each line, as sshd -T does.
func (s *Settings) Write(w io.Writer) error {
	rows := table()
	slices.SortFunc(rows, func(a, b keyword) int { return strings.Compare(a.Name, b.Name) })
	for i := range rows {
		k := &rows[i]
		if k.show == nil || k.Name == "PubkeyAcceptedKeyTypes" {
			continue
		}
		values := slices.Clone(k.show(s))
		if !k.raw && !k.composed {
			for i := range values {
				values[i] = quoteWord(values[i])
			}
		}
		if !manyLines(k) && len(values) > 0 {
			values = []string{strings.Join(values, " ")}
		}
		for _, v := range values {
			if _, err := fmt.Fprintf(w, "%s %s\n", strings.ToLower(k.Name), v); err != nil {
				return err
			}
		}
	}
	return nil
}
