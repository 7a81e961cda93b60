package keys

import (
	"crypto/x509"
	"errors"
)

// isWrongPassphrase reports whether decrypting failed for the passphrase.
// x/crypto gives x509's error for every format.
func isWrongPassphrase(err error) bool {
	return errors.Is(err, x509.IncorrectPasswordError)
}
