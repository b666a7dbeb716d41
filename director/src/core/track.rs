//! TCP in the middle: what a packet tells about the state of its session (DESIGN section 7).

use holdfast_schema::flow::Protocol;
use holdfast_schema::session::SessionFlags;

use super::meta::Segment;
use crate::session::Side;
use crate::wire::TcpFlags;

/// Whether a reset of one side is taken for the end of the session. Anybody can send a RST with the
/// right addresses and ports, and an endpoint ignores it unless its number is the one expected next
/// (RFC 5961 section 3.2); a session that ended for less would be forgotten under a living
/// connection. `numbers` tells sequence end and acknowledgement of a side's last packet.
///
/// One that is not believed is forwarded all the same: if the endpoint takes it, the session ends
/// with its idle timeout. Not so the answer of a backend to what acknowledges another backend's number
/// ([`denies_agreement`]): it has the very number that the client expects of the other one.
#[cold]
pub(super) fn reset_is_believed(
    flags: SessionFlags,
    side: Side,
    segment: &Segment,
    isn: u32,
    numbers: impl Fn(Side) -> Option<(u32, u32)>,
) -> bool {
    // A client that waits for its SYN-ACK resets whatever else it is answered (an older connection that has
    // the port at the backend), and goes on waiting (RFC 9293 section 3.10.7.3).
    let answered = flags.established() || flags.has(SessionFlags::BACKEND_ANSWERED);
    if side == Side::Client && !answered {
        return false;
    }
    let (own, peers) = match side {
        Side::Client => (numbers(Side::Client), numbers(Side::Backend)),
        Side::Backend => (numbers(Side::Backend), numbers(Side::Client)),
    };
    // A backend that refuses a SYN has no number yet; it acknowledges the SYN, and data in it.
    let refuses = side == Side::Backend
        && !flags.established()
        && segment.flags.has(TcpFlags::ACK)
        && (segment.ack == isn.wrapping_add(1)
            || peers.is_some_and(|(sent, _)| sent == segment.ack));
    // The first number is what the other endpoint expects (0: it sent no more than a SYN). The second
    // may be ahead of it, while data are on their way. A backend of which nothing is known may not be the
    // one that the client agrees with: that a reset has the number expected of the other one shows nothing.
    refuses
        || (answered || own.is_some())
            && peers.is_some_and(|(_, expected)| expected != 0 && expected == segment.seq)
        || own.is_some_and(|(end, _)| end == segment.seq)
        || own.is_none() && peers.is_none()
}

/// Whether a reset says that its backend has not agreed with the client on the connection: it answers a segment
/// that acknowledges another number than the backend's SYN-ACK had (RFC 9293 section 3.10.7.4, and .1 if there is
/// none).
pub(super) fn denies_agreement(flags: SessionFlags, side: Side, segment: &Segment) -> bool {
    side == Side::Backend
        && !flags.established()
        && segment.flags.has(TcpFlags::RST)
        && !segment.flags.has(TcpFlags::ACK)
}

/// The flags a session has after a packet of one side. A reset was believed before. `isn` is the client's
/// initial sequence number; `completes` tells whether an ACK of the client is of the backend's SYN-ACK.
#[inline]
pub(super) fn after(
    flags: SessionFlags,
    protocol: Protocol,
    side: Side,
    segment: &Segment,
    isn: u32,
    completes: impl FnOnce() -> bool,
) -> SessionFlags {
    match (protocol, side) {
        (Protocol::Tcp, Side::Client) => after_client(flags, segment, completes),
        (Protocol::Tcp, Side::Backend) => after_backend(flags, segment, isn),
        (Protocol::Udp, Side::Client) => flags.with(SessionFlags::CLIENT_OPENED),
        (Protocol::Udp, Side::Backend) => {
            flags.with(SessionFlags::BACKEND_ANSWERED).with(SessionFlags::ESTABLISHED)
        }
    }
}

#[inline]
fn after_client(
    flags: SessionFlags,
    segment: &Segment,
    completes: impl FnOnce() -> bool,
) -> SessionFlags {
    let is = |bits| segment.flags.has(bits);
    if is(TcpFlags::RST) {
        return flags.with(SessionFlags::RESET);
    }
    if is(TcpFlags::SYN) {
        return flags.with(SessionFlags::CLIENT_OPENED);
    }
    let mut after = flags;
    // Anybody can send a SYN and an ACK behind it. Only who got the SYN-ACK knows its number.
    if !flags.established()
        && is(TcpFlags::ACK)
        && flags.has(SessionFlags::BACKEND_ANSWERED)
        && completes()
    {
        after = after.with(SessionFlags::ESTABLISHED);
    }
    if is(TcpFlags::FIN) {
        after = after.with(SessionFlags::CLIENT_FIN);
    }
    after
}

#[inline]
fn after_backend(flags: SessionFlags, segment: &Segment, isn: u32) -> SessionFlags {
    let is = |bits| segment.flags.has(bits);
    if is(TcpFlags::RST) {
        return flags.with(SessionFlags::RESET);
    }
    if is(TcpFlags::SYN) {
        let answered = is(TcpFlags::ACK);
        return if answered { flags.with(SessionFlags::BACKEND_ANSWERED) } else { flags };
    }
    let mut after = flags;
    if !flags.established() && is(TcpFlags::ACK) {
        // A bare ACK of nothing but the SYN proves nothing: it may be the challenge ACK of a
        // TIME_WAIT or half-open port. Data, a FIN, or an ACK of the client's data do.
        let acknowledged = segment.ack.wrapping_sub(isn.wrapping_add(1));
        let acks_data = flags.has(SessionFlags::BACKEND_ANSWERED)
            && acknowledged != 0
            && acknowledged < 1 << 31;
        if segment.data || is(TcpFlags::FIN) || acks_data {
            after = after.with(SessionFlags::BACKEND_ANSWERED).with(SessionFlags::ESTABLISHED);
        }
    }
    if is(TcpFlags::FIN) && !flags.has(SessionFlags::BACKEND_FIN) {
        after = after.with(SessionFlags::BACKEND_FIN);
        if !flags.has(SessionFlags::CLIENT_FIN) {
            after = after.with(SessionFlags::BACKEND_CLOSED_FIRST);
        }
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    type F = SessionFlags;
    const ISN: u32 = 0xffff_fff0;
    const SYN: u8 = 2;
    const ACK: u8 = 0x10;
    const FIN: u8 = 1;
    const RST: u8 = 4;

    fn flags(all: &[SessionFlags]) -> SessionFlags {
        all.iter().fold(F::default(), |sum, f| sum.with(*f))
    }

    /// A segment of the client or the backend: bits, data, and how far its ACK is beyond the ISN.
    fn run(steps: &[(Side, u8, bool, u32)]) -> SessionFlags {
        steps.iter().fold(F::default(), |state, &(side, bits, data, acked)| {
            let segment = Segment {
                flags: TcpFlags(bits),
                seq: 0,
                ack: ISN.wrapping_add(acked),
                len: 0,
                data,
            };
            after(state, Protocol::Tcp, side, &segment, ISN, || segment.ack == ISN)
        })
    }

    #[test]
    fn tcp_states() {
        use Side::{Backend as B, Client as C};
        let opened = (C, SYN, false, 0);
        let answered = (B, SYN | ACK, false, 1);
        let acked = (C, ACK, false, 0);
        let open = [F::CLIENT_OPENED, F::BACKEND_ANSWERED, F::ESTABLISHED];
        for (name, steps, expected) in [
            ("SYN", &[opened][..], &[F::CLIENT_OPENED][..]),
            ("ACK without SYN-ACK", &[opened, acked], &[F::CLIENT_OPENED]),
            ("SYN-ACK", &[opened, answered], &open[..2]),
            ("blind ACK of the client", &[opened, answered, (C, ACK, false, 1)], &open[..2]),
            ("client's ACK", &[opened, answered, acked], &open),
            ("backend data", &[opened, answered, (B, ACK, true, 1)], &open),
            ("backend data, SYN-ACK seen elsewhere", &[opened, (B, ACK, true, 1)], &open),
            ("backend ACKs data", &[opened, answered, (B, ACK, false, 30)], &open),
            ("challenge ACK, half-open", &[opened, answered, (B, ACK, false, 1)], &open[..2]),
            ("challenge ACK, TIME_WAIT", &[opened, (B, ACK, false, 9)], &open[..1]),
            ("bare SYN of the backend", &[opened, (B, SYN, false, 0)], &open[..1]),
            ("refused", &[opened, (B, RST | ACK, false, 1)], &[F::CLIENT_OPENED, F::RESET]),
            ("client resets", &[opened, (C, RST, false, 0)], &[F::CLIENT_OPENED, F::RESET]),
        ] {
            assert_eq!(run(steps).0, flags(expected).0, "{name}");
        }
    }

    #[test]
    fn a_reset_is_believed_if_its_number_is_right() {
        use Side::{Backend as B, Client as C};
        let half = F::CLIENT_OPENED;
        let answered = half.with(F::BACKEND_ANSWERED);
        let open = flags(&[F::CLIENT_OPENED, F::BACKEND_ANSWERED, F::ESTABLISHED]);
        // Sequence end and acknowledgement of the last packets: the client's, the backend's.
        let (client, backend) =
            (Some((ISN.wrapping_add(51), 900)), Some((1_000, ISN.wrapping_add(31))));
        let syn = Some((ISN.wrapping_add(1), 0));
        for (name, state, side, bits, seq, ack, numbers, believed) in [
            (
                "what the backend expects",
                open,
                C,
                RST,
                ISN.wrapping_add(31),
                0,
                (client, backend),
                true,
            ),
            (
                "behind data on their way",
                open,
                C,
                RST,
                ISN.wrapping_add(51),
                0,
                (client, backend),
                true,
            ),
            ("blind", open, C, RST, ISN.wrapping_add(40), 0, (client, backend), false),
            ("blind, zero", open, C, RST, 0, 0, (client, backend), false),
            ("what the client expects", open, B, RST, 900, 0, (client, backend), true),
            ("behind the backend's data", open, B, RST | ACK, 1_000, 5, (client, backend), true),
            ("blind, from the backend", open, B, RST, 950, 0, (client, backend), false),
            (
                "a late refusal",
                open,
                B,
                RST | ACK,
                0,
                ISN.wrapping_add(1),
                (client, backend),
                false,
            ),
            ("refused", half, B, RST | ACK, 0, ISN.wrapping_add(1), (syn, None), true),
            (
                "SYN with data refused",
                half,
                B,
                RST | ACK,
                0,
                ISN.wrapping_add(51),
                (client, None),
                true,
            ),
            ("a blind refusal", half, B, RST | ACK, 0, 77, (syn, None), false),
            ("SYN-ACK refused", answered, C, RST, ISN.wrapping_add(31), 0, (syn, backend), true),
            ("challenge refused", half, C, RST, ISN.wrapping_add(31), 0, (syn, backend), false),
            ("another connection's", half, B, RST, 700, 0, (syn, None), false),
            (
                "of one that nobody heard, what the client expects",
                half,
                B,
                RST,
                900,
                0,
                (client, None),
                false,
            ),
            ("of one that has shown its number", half, B, RST, 900, 0, (client, backend), true),
            ("no numbers", open, C, RST, 1, 0, (None, None), true),
        ] {
            let segment = Segment { flags: TcpFlags(bits), seq, ack, len: 0, data: false };
            let numbers = |of| if of == C { numbers.0 } else { numbers.1 };
            assert_eq!(reset_is_believed(state, side, &segment, ISN, numbers), believed, "{name}");
        }
    }

    #[test]
    fn who_closed_first() {
        use Side::{Backend as B, Client as C};
        let start = [(C, SYN, false, 0), (B, SYN | ACK, false, 1), (C, ACK, false, 0)];
        let open = flags(&[F::CLIENT_OPENED, F::BACKEND_ANSWERED, F::ESTABLISHED]);
        let (client, backend) = ((C, FIN | ACK, false, 0), (B, FIN | ACK, false, 1));
        for (steps, expected) in [
            (&[client][..], &[F::CLIENT_FIN][..]),
            (&[client, backend], &[F::CLIENT_FIN, F::BACKEND_FIN]),
            (&[client, backend, backend], &[F::CLIENT_FIN, F::BACKEND_FIN]),
            (&[backend], &[F::BACKEND_FIN, F::BACKEND_CLOSED_FIRST]),
            (&[backend, client], &[F::CLIENT_FIN, F::BACKEND_FIN, F::BACKEND_CLOSED_FIRST]),
            (&[backend, backend], &[F::BACKEND_FIN, F::BACKEND_CLOSED_FIRST]),
        ] {
            let all = [&start[..], steps].concat();
            assert_eq!(run(&all).0, open.with(flags(expected)).0, "{steps:?}");
        }
    }

    #[test]
    fn udp_is_established_by_an_answer() {
        let none = Segment::default();
        let opened = after(F::default(), Protocol::Udp, Side::Client, &none, 0, || false);
        assert_eq!(opened.0, F::CLIENT_OPENED.0);
        let again = after(opened, Protocol::Udp, Side::Client, &none, 0, || false);
        assert!(!again.established());
        assert!(after(opened, Protocol::Udp, Side::Backend, &none, 0, || false).established());
    }
}
