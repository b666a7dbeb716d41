//! TCP segments (RFC 9293 section 3.1).

use super::{WireError, be16, be32};

/// Bytes of a TCP header without options.
pub const HEADER_LEN: usize = 20;

/// The control bits of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// FIN.
    pub const FIN: TcpFlags = TcpFlags(0x01);
    /// SYN.
    pub const SYN: TcpFlags = TcpFlags(0x02);
    /// RST.
    pub const RST: TcpFlags = TcpFlags(0x04);
    /// ACK.
    pub const ACK: TcpFlags = TcpFlags(0x10);

    /// Whether all bits of `other` are set.
    #[inline]
    pub fn has(self, other: TcpFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether this is the first segment of a connection: SYN without ACK, RST and FIN.
    #[inline]
    pub fn opens(self) -> bool {
        self.0 & (Self::SYN.0 | Self::ACK.0 | Self::RST.0 | Self::FIN.0) == Self::SYN.0
    }
}

/// A segment whose data offset agrees with the bytes that are there.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<'a> {
    header: &'a [u8; HEADER_LEN],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Tcp<'a> {
    /// Splits header, options and payload.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Tcp<'a>, WireError> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(WireError::TcpShort)?;
        let options_len = (usize::from(header[12] >> 4) * 4)
            .checked_sub(HEADER_LEN)
            .ok_or(WireError::TcpDataOffset)?;
        let (options, payload) = rest.split_at_checked(options_len).ok_or(WireError::TcpShort)?;
        Ok(Tcp { header, options, payload })
    }

    /// Source port.
    #[inline]
    pub fn src_port(&self) -> u16 {
        be16!(self.header, 0)
    }

    /// Destination port.
    #[inline]
    pub fn dst_port(&self) -> u16 {
        be16!(self.header, 2)
    }

    /// Sequence number.
    #[inline]
    pub fn seq(&self) -> u32 {
        be32!(self.header, 4)
    }

    /// Acknowledgement number; it means something only with [`TcpFlags::ACK`].
    #[inline]
    pub fn ack(&self) -> u32 {
        be32!(self.header, 8)
    }

    /// The control bits.
    #[inline]
    pub fn flags(&self) -> TcpFlags {
        TcpFlags(self.header[13])
    }

    /// The data.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// SEG.LEN: what the segment occupies in sequence space, SYN and FIN included.
    #[inline]
    pub fn sequence_len(&self) -> u32 {
        let flags = self.flags();
        self.payload.len() as u32
            + u32::from(flags.has(TcpFlags::SYN))
            + u32::from(flags.has(TcpFlags::FIN))
    }

    /// The options, one after the other. The walk ends at the first malformed one, with an error.
    pub fn options(&self) -> TcpOptions<'a> {
        TcpOptions { rest: self.options }
    }
}

/// One option: its kind, and the bytes behind its length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpOption<'a> {
    /// Its kind (IANA).
    pub kind: u8,
    /// What it says.
    pub data: &'a [u8],
}

/// A walk over options (RFC 9293 section 3.2). No-operations are skipped; end-of-list ends it.
#[derive(Clone, Debug)]
pub struct TcpOptions<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for TcpOptions<'a> {
    type Item = Result<TcpOption<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (&kind, rest) = self.rest.split_first()?;
            match kind {
                0 => {
                    self.rest = &[];
                    return None;
                }
                1 => self.rest = rest,
                kind => {
                    let option = rest.split_first().and_then(|(&length, rest)| {
                        rest.split_at_checked(usize::from(length).checked_sub(2)?)
                    });
                    let Some((data, rest)) = option else {
                        self.rest = &[];
                        return Some(Err(WireError::TcpOption));
                    };
                    self.rest = rest;
                    return Some(Ok(TcpOption { kind, data }));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{TcpHeader, TcpOptionElement};

    fn encoded(header: &TcpHeader, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        header.write(&mut bytes).unwrap();
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn fields_agree_with_the_encoder() {
        let mut header = TcpHeader::new(40000, 80, 0xdead_beef, 1000);
        (header.ack, header.acknowledgment_number) = (true, 77);
        (header.syn, header.fin) = (true, true);
        header
            .set_options(&[
                TcpOptionElement::MaximumSegmentSize(1460),
                TcpOptionElement::Noop,
                TcpOptionElement::WindowScale(7),
            ])
            .unwrap();
        let bytes = encoded(&header, b"hello");
        let view = Tcp::parse(&bytes).unwrap();
        assert_eq!((view.src_port(), view.dst_port()), (40000, 80));
        assert_eq!((view.seq(), view.ack()), (0xdead_beef, 77));
        assert_eq!(view.flags().0, 0x13);
        assert_eq!(view.payload(), b"hello");
        assert_eq!(view.sequence_len(), 7);
        let options: Vec<_> = view.options().map(|o| o.map(|o| (o.kind, o.data))).collect();
        assert_eq!(options, [Ok((2, &[5u8, 180][..])), Ok((3, &[7u8][..]))]);
    }

    #[test]
    fn every_malformation_has_its_name() {
        let mut bytes = encoded(&TcpHeader::new(1, 2, 3, 4), b"");
        assert_eq!(Tcp::parse(&bytes[..19]).err(), Some(WireError::TcpShort));
        bytes[12] = 0x40;
        assert_eq!(Tcp::parse(&bytes).err(), Some(WireError::TcpDataOffset));
        bytes[12] = 0x60;
        assert_eq!(Tcp::parse(&bytes).err(), Some(WireError::TcpShort));
    }

    #[test]
    fn malformed_options_end_the_walk() {
        for (bytes, good) in [
            (&[2u8, 0, 1, 1][..], 0),
            (&[2, 1, 1, 1], 0),
            (&[2, 5, 1, 1], 0),
            (&[1, 1, 1, 2], 0),
            (&[3, 3, 7, 2], 1),
            (&[8, 2, 9, 200], 1),
        ] {
            let walked: Vec<_> = TcpOptions { rest: bytes }.collect();
            assert_eq!(walked.len(), good + 1, "{bytes:?}");
            assert_eq!(walked.last(), Some(&Err(WireError::TcpOption)), "{bytes:?}");
        }
        assert_eq!(TcpOptions { rest: &[1, 0, 2, 0] }.count(), 0, "end of list ends it");
    }

    #[test]
    fn what_opens_a_connection() {
        for (flags, opens) in [
            (0x02, true),
            (0xc2, true), // ECN set-up (RFC 3168)
            (0x0a, true),
            (0x12, false),
            (0x03, false),
            (0x06, false),
            (0x10, false),
            (0x00, false),
        ] {
            assert_eq!(TcpFlags(flags).opens(), opens, "{flags:02x}");
        }
    }
}
