// Package relay is the link between the two ends of a session: many streams,
// each with credit of its own, over one byte stream or several. It knows no
// file operation. It also has the plain message connection between nexec and
// its file service, and joins the two.
//
// # Byte streams
//
// A link runs over a first byte stream and any number of attached ones. Each
// end opens each of them with a preamble of 16 bytes, and sends on without
// waiting for the other's:
//
//	 0  8  "\xCEnexec\r\n"
//	 8  2  version of the link, 1
//	10  1  role: 0 the first byte stream, 1 an attached one
//	11  1  flags: 1 = data frames sent to this end may be compressed
//	12  4  zero
//
// The first ten bytes have this meaning in every version. An end that sees
// anything else, or another version, ends the link. Integers are little-endian.
//
// # Frames
//
// Frames follow, each a header of 20 bytes and a payload:
//
//	 0  4  length of the payload
//	 4  1  type
//	 5  1  flags
//	 6  2  zero
//	 8  4  stream
//	12  8  sequence number
//
//	type       payload        flags and fields
//	1 data     0 to 65516     1 more, 2 fin, 4 zstd, 8 ask
//	2 credit   8: limit       sequence number: the first not received
//	3 stop     0              stream
//	4 ping     8: any         stream and sequence number zero
//	5 pong     8: the ping's  stream and sequence number zero
//	6 bye      1 to 1025      stream and sequence number zero
//
// What is not listed is zero. There is one encoding of each frame.
//
// Data. The data frames of each stream and direction are numbered from zero.
// A message is one frame or several, all but the last with the flag more. A
// fin has no payload and no other flag but ask; it is the last frame of its
// direction of the stream. With the flag zstd the payload is zstd data of at
// most 65516 bytes of content, and not empty; it is sent only to an end whose
// preamble on the first byte stream allows it.
//
// Credit. A data frame costs its payload's length on the wire and 256 more.
// The costs of all data frames of a stream and direction, taken together,
// must not exceed the limit in the last credit frame for it; before the first,
// the limit is what [DefaultWindow] says. The frames before the sequence
// number have been received. Neither number ever falls. An end acknowledges
// at the latest when 64 KiB of cost have come that it has not acknowledged,
// counted over all streams, with each pong, and at once when a fin or a frame
// with the flag ask has come in sequence. Credit for a
// stream that has ended both ways means nothing.
//
// Stop says that nobody will read the stream at the end that sends it. The
// other end drops what it has not sent and sends a fin.
//
// Ping is answered by pong, with the same payload. Only the last of several
// pings need be answered.
//
// Bye is the last frame on the first byte stream. Its first payload byte is 0
// for an end in good order, with no text, or 1 when the sender gives up, with
// at most 1024 bytes of text that says why. An end that receives an orderly
// bye sends its own at once. When each has the other's, both close all byte
// streams. A first byte stream that ends otherwise is a lost connection.
//
// Attached byte streams carry data frames only. Streams of class PriorityBulk
// may use any byte stream, an attached one only after the peer's preamble has
// come through it; the sequence numbers restore the order. All other frames
// use the first. When an attached byte stream ends, its sender sends what was
// not acknowledged again, elsewhere; a frame that comes twice is ignored.
//
// What comes in place of an attached byte stream's preamble is no peer's, and
// costs that byte stream only. Where the program at a byte stream's end is
// started for it alone, as a subsystem's is, an attached one begins with a join
// record, before the preamble, that has the program hand it over to the
// session's own process:
//
//	 0  8  "\xCEjoin\r\n\x00"
//	 8  2  version of the record, 1
//	10  6  zero
//	16 32  the session's secret, as in its hello
//
// # Resuming
//
// Version 1 has no resuming; what it needs is here. Sent frames are kept until
// they are acknowledged. To resume, the first byte stream is replaced: a role
// of its own in the preamble, then from each end one credit frame for each
// stream that it has, with what it has received and granted. A stream that an
// end has sent on and that the other does not list was received in full if its
// sender has received the other direction's fin (a stream is forgotten only
// after its fin was acknowledged), otherwise not at all. Each end then treats
// what was under way as on an attached byte stream that died, queues its
// pending stop frames again, and goes on.
package relay
