package keys

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"
)

// The format is in OpenSSH's PROTOCOL.krl.
const (
	krlMagic   = "SSHKRL\n\x00"
	krlVersion = 1

	krlSectionCertificates      = 1
	krlSectionExplicitKey       = 2
	krlSectionFingerprintSHA1   = 3
	krlSectionSignature         = 4
	krlSectionFingerprintSHA256 = 5
	krlSectionExtension         = 255

	krlCertSerialList   = 0x20
	krlCertSerialRange  = 0x21
	krlCertSerialBitmap = 0x22
	krlCertKeyID        = 0x23
	krlCertExtension    = 0x39
)

// KRL is a key revocation list. It is not changed once made.
type KRL struct {
	Number  uint64
	Comment string

	authorities []*krlAuthority
	keys        map[string]bool
	sha1s       map[string]bool
	sha256s     map[string]bool
}

// krlAuthority has the certificates of one authority that are revoked.
type krlAuthority struct {
	key     ssh.PublicKey // nil: of any authority
	serials map[uint64]bool
	ranges  [][2]uint64
	bitmaps []krlBitmap
	ids     map[string]bool
}

// krlBitmap has serial number first+n for bit n, bit 0 being the lowest of the last byte.
type krlBitmap struct {
	first uint64
	bits  []byte
}

var errKRLShort = errors.New("key revocation list is cut off or malformed")

// krlReader reads straight through; its error sticks.
type krlReader struct {
	rest []byte
	err  error
}

func (r *krlReader) take(n int) []byte {
	if r.err == nil && (n < 0 || n > len(r.rest)) {
		r.err = errKRLShort
	}
	if r.err != nil {
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *krlReader) u8() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *krlReader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *krlReader) bytes() []byte {
	b := r.take(4)
	if b == nil {
		return nil
	}
	n := binary.BigEndian.Uint32(b)
	if uint64(n) > uint64(len(r.rest)) {
		r.err = errKRLShort
		return nil
	}
	return r.take(int(n))
}

func (r *krlReader) more() bool { return r.err == nil && len(r.rest) > 0 }

func (r *krlReader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

// ParseKRL reads a key revocation list as ssh-keygen -k writes it. Signatures
// on it are not accepted, as we would not check them; sections that are not
// known refuse the list.
func ParseKRL(data []byte) (*KRL, error) {
	r := &krlReader{rest: data}
	if string(r.take(len(krlMagic))) != krlMagic {
		return nil, errors.New("not a key revocation list")
	}
	version := r.take(4)
	if version != nil && binary.BigEndian.Uint32(version) != krlVersion {
		return nil, fmt.Errorf("key revocation list of version %d; %d is known", binary.BigEndian.Uint32(version), krlVersion)
	}
	k := &KRL{keys: map[string]bool{}, sha1s: map[string]bool{}, sha256s: map[string]bool{}}
	k.Number = r.u64()
	r.u64()   // when it was made
	r.u64()   // flags: none are defined
	r.bytes() // reserved
	k.Comment = string(r.bytes())
	for r.more() {
		kind := r.u8()
		section := &krlReader{rest: r.bytes(), err: r.err}
		k.section(kind, section)
		r.err = section.err
	}
	if r.err != nil {
		return nil, r.err
	}
	return k, nil
}

func (k *KRL) section(kind byte, r *krlReader) {
	switch kind {
	case krlSectionCertificates:
		k.certificates(r)
	case krlSectionExplicitKey:
		for r.more() {
			k.keys[string(r.bytes())] = true
		}
	case krlSectionFingerprintSHA1:
		for r.more() {
			k.sha1s[string(r.sized(sha1.Size))] = true
		}
	case krlSectionFingerprintSHA256:
		for r.more() {
			k.sha256s[string(r.sized(sha256.Size))] = true
		}
	case krlSectionExtension:
		r.extension()
	case krlSectionSignature:
		r.fail("signed key revocation lists are not supported; make it without -s CA_KEY signing")
	default:
		r.fail("key revocation list has a section of unknown type %d", kind)
	}
}

// sized is a byte string of exactly n bytes.
func (r *krlReader) sized(n int) []byte {
	b := r.bytes()
	if r.err == nil && len(b) != n {
		r.err = errKRLShort
	}
	return b
}

// extension skips an extension that need not be understood.
func (r *krlReader) extension() {
	name := r.bytes()
	critical := r.u8()
	r.bytes()
	if critical != 0 {
		r.fail("key revocation list has the unknown critical extension %q", name)
	}
	if len(r.rest) > 0 {
		r.fail("%w", errKRLShort)
	}
}

func (k *KRL) certificates(r *krlReader) {
	a := &krlAuthority{serials: map[uint64]bool{}, ids: map[string]bool{}}
	if blob := r.bytes(); len(blob) > 0 {
		key, err := ssh.ParsePublicKey(blob)
		if err != nil {
			r.fail("key revocation list names a bad authority: %w", err)
			return
		}
		a.key = key
	}
	r.bytes() // reserved
	for r.more() {
		kind := r.u8()
		section := &krlReader{rest: r.bytes(), err: r.err}
		a.section(kind, section)
		r.err = section.err
	}
	k.authorities = append(k.authorities, a)
}

func (a *krlAuthority) section(kind byte, r *krlReader) {
	switch kind {
	case krlCertSerialList:
		for r.more() {
			a.serials[r.u64()] = true
		}
	case krlCertSerialRange:
		from, to := r.u64(), r.u64()
		if from > to || len(r.rest) > 0 {
			r.fail("%w", errKRLShort)
		}
		a.ranges = append(a.ranges, [2]uint64{from, to})
	case krlCertSerialBitmap:
		first, bits := r.u64(), r.bytes()
		if len(r.rest) > 0 {
			r.fail("%w", errKRLShort)
		}
		a.bitmaps = append(a.bitmaps, krlBitmap{first, bits})
	case krlCertKeyID:
		for r.more() {
			a.ids[string(r.bytes())] = true
		}
	case krlCertExtension:
		r.extension()
	default:
		r.fail("key revocation list has a certificate section of unknown type %#x", kind)
	}
}

func (m krlBitmap) has(serial uint64) bool {
	if serial < m.first || serial-m.first >= uint64(len(m.bits))*8 {
		return false
	}
	n := serial - m.first
	return m.bits[len(m.bits)-1-int(n/8)]>>(n%8)&1 == 1
}

// Contains reports whether the list revokes exactly this key or certificate.
// The key inside of a certificate and its authority are the caller's to ask for.
func (k *KRL) Contains(key ssh.PublicKey) bool {
	plain := key
	cert, isCert := key.(*ssh.Certificate)
	if isCert {
		plain = cert.Key // OpenSSH hashes and lists keys without certificates
	}
	blob := plain.Marshal()
	h1, h256 := sha1.Sum(blob), sha256.Sum256(blob)
	if k.keys[string(blob)] || k.sha1s[string(h1[:])] || k.sha256s[string(h256[:])] {
		return true
	}
	if !isCert {
		return false
	}
	for _, a := range k.authorities {
		if (a.key == nil || SameKey(a.key, cert.SignatureKey)) && a.revokes(cert) {
			return true
		}
	}
	return false
}

func (a *krlAuthority) revokes(cert *ssh.Certificate) bool {
	if a.ids[cert.KeyId] {
		return true
	}
	if cert.Serial == 0 {
		return false // zero is no serial number: none was given
	}
	if a.serials[cert.Serial] {
		return true
	}
	for _, r := range a.ranges {
		if r[0] <= cert.Serial && cert.Serial <= r[1] {
			return true
		}
	}
	for _, m := range a.bitmaps {
		if m.has(cert.Serial) {
			return true
		}
	}
	return false
}
