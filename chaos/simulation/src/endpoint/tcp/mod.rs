//! A small TCP without I/O (RFC 9293): one connection, segments in, segments out.
//!
//! Positions in a stream are counted from its SYN, which is 0, in 64 bits; they become sequence
//! numbers, which wrap, only in segments. There is no congestion control: a constant window bounds
//! what is on its way. No SACK, no timestamps, no delayed acknowledgements.

mod receive;

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::reassembly::Reassembly;
use super::segment::{Flags, Segment};
use super::timers::{Expiry, Retransmission};

/// Times and sizes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpConfig {
    /// Bytes the path takes in one IP packet.
    pub mtu: u16,
    /// Receive window, constant.
    pub window: u16,
    /// First retransmission of data.
    pub retransmit_us: u64,
    /// First retransmission of a SYN or SYN-ACK.
    pub retransmit_syn_us: u64,
    /// Longest interval between retransmissions.
    pub retransmit_most_us: u64,
    /// How long a connection attempt goes on without an answer.
    pub give_up_syn_us: u64,
    /// How long data are sent again without an answer.
    pub give_up_us: u64,
    /// How long TIME_WAIT lasts.
    pub time_wait_us: u64,
    /// Least time between two challenge ACKs, and between two ACKs of segments without data outside
    /// the window, of one connection (Linux: tcp_invalid_ratelimit).
    pub challenge_us: u64,
}

impl Default for TcpConfig {
    /// Like Linux, except that unanswered data are given up after 120 s, not 15 minutes.
    fn default() -> TcpConfig {
        TcpConfig {
            mtu: 1_500,
            window: 65_535,
            retransmit_us: 200_000,
            retransmit_syn_us: 1_000_000,
            retransmit_most_us: 60_000_000,
            give_up_syn_us: 60_000_000,
            give_up_us: 120_000_000,
            time_wait_us: 60_000_000,
            challenge_us: 500_000,
        }
    }
}

/// Connection states (RFC 9293 section 3.3.2). There is no LISTEN: hosts listen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the standard's names
pub enum State {
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
    Closed,
}

impl State {
    /// The standard's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            State::SynSent => "SYN-SENT",
            State::SynReceived => "SYN-RECEIVED",
            State::Established => "ESTABLISHED",
            State::FinWait1 => "FIN-WAIT-1",
            State::FinWait2 => "FIN-WAIT-2",
            State::CloseWait => "CLOSE-WAIT",
            State::Closing => "CLOSING",
            State::LastAck => "LAST-ACK",
            State::TimeWait => "TIME-WAIT",
            State::Closed => "CLOSED",
        }
    }
}

/// What happened to a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// The handshake is done.
    Connected,
    /// The peer will send no more; everything it sent can be read.
    PeerClosed,
    /// Both directions are closed and acknowledged.
    Closed,
    /// The peer answered the SYN with a reset.
    Refused,
    /// The peer reset the connection.
    Reset,
    /// There was no answer for too long, to something sent in this state.
    TimedOut(State),
    /// A reset or SYN that was challenged or ignored.
    ResetIgnored,
    /// A SYN with this number, which is not this connection's.
    SynOnLiving(u32),
    /// An acknowledgement of a SYN-ACK that was never sent (sequence, acknowledgement): it was reset.
    WrongAck(u32, u32),
}

/// Segments of one's own on their way at the most.
const IN_FLIGHT: i64 = 16;

/// One connection.
#[derive(Clone, Debug)]
pub struct Tcp {
    config: TcpConfig,
    local: SocketAddr,
    remote: SocketAddr,
    state: State,
    /// Client address that own segments pretend.
    forged: Option<SocketAddr>,
    isn: u32,
    /// The first position that is not acknowledged.
    unacked: i64,
    /// The first position that was never sent.
    unsent: i64,
    /// Data from `unacked` on.
    buffer: VecDeque<u8>,
    /// Where the FIN is, once this end has closed.
    fin: Option<i64>,
    peer_window: i64,
    mss: usize,
    duplicate_acks: u32,
    /// While less than this is acknowledged, every progress sends the next segment again.
    recover: i64,
    timer: Retransmission,
    peer_isn: u32,
    received: Reassembly,
    ack_due: bool,
    last_challenge_us: Option<u64>,
    time_wait_until_us: Option<u64>,
    signals: VecDeque<Signal>,
}

impl Tcp {
    fn new(config: &TcpConfig, local: SocketAddr, remote: SocketAddr, isn: u32) -> Tcp {
        Tcp {
            config: *config,
            local,
            remote,
            state: State::SynSent,
            forged: None,
            isn,
            unacked: 0,
            unsent: 1,
            buffer: VecDeque::new(),
            fin: None,
            peer_window: 0,
            mss: 536,
            duplicate_acks: 0,
            recover: 0,
            timer: Retransmission::new(
                config.retransmit_syn_us,
                config.retransmit_most_us,
                config.give_up_syn_us,
            ),
            peer_isn: 0,
            received: Reassembly::default(),
            ack_due: false,
            last_challenge_us: None,
            time_wait_until_us: None,
            signals: VecDeque::new(),
        }
    }

    /// Opens a connection: sends a SYN.
    pub fn connect(
        config: &TcpConfig,
        sockets: (SocketAddr, SocketAddr),
        isn: u32,
        now_us: u64,
        out: &mut Vec<Vec<u8>>,
    ) -> Tcp {
        let mut tcp = Tcp::new(config, sockets.0, sockets.1, isn);
        tcp.send_syn(out);
        tcp.timer.start(now_us);
        tcp
    }

    /// Accepts a connection: answers the SYN `syn`.
    pub fn accept(
        config: &TcpConfig,
        syn: &Segment<'_>,
        isn: u32,
        now_us: u64,
        out: &mut Vec<Vec<u8>>,
    ) -> Tcp {
        let mut tcp = Tcp::new(config, syn.dst, syn.src, isn);
        tcp.state = State::SynReceived;
        tcp.learn_syn(syn);
        tcp.send_syn(out);
        tcp.timer.start(now_us);
        tcp
    }

    /// Own segments pretend this client address from now on.
    pub fn forge(&mut self, address: SocketAddr) {
        self.forged = Some(address);
    }

    /// Sends the SYN once more, as if the network had doubled it.
    pub fn repeat_syn(&self, out: &mut Vec<Vec<u8>>) {
        if self.state == State::SynSent {
            self.send_syn(out);
        }
    }

    /// The connection's state.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// This end's socket and the other's.
    #[must_use]
    pub fn sockets(&self) -> (SocketAddr, SocketAddr) {
        (self.local, self.remote)
    }

    /// The sequence number behind everything that was sent.
    #[must_use]
    pub fn sequence_end(&self) -> u32 {
        self.seq(self.unsent)
    }

    /// The sequence number that is expected next.
    #[must_use]
    pub fn sequence_expected(&self) -> u32 {
        self.peer_seq(self.received.next())
    }

    /// The peer's initial sequence number.
    #[must_use]
    pub fn peer_isn(&self) -> u32 {
        self.peer_isn
    }

    /// Whether the peer has ended its direction.
    #[must_use]
    pub fn peer_closed(&self) -> bool {
        self.received.finished()
    }

    /// Whether all data that were written are acknowledged.
    #[must_use]
    pub fn all_acknowledged(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next thing that happened.
    pub fn signal(&mut self) -> Option<Signal> {
        self.signals.pop_front()
    }

    /// Data that arrived in order.
    pub fn read(&mut self) -> Vec<u8> {
        self.received.read()
    }

    /// Writes data. Nothing is sent before [`Tcp::flush`].
    pub fn write(&mut self, data: &[u8]) {
        debug_assert!(self.fin.is_none(), "written behind the end");
        self.buffer.extend(data);
    }

    /// Ends the own direction behind what was written. The other direction stays open.
    pub fn close(&mut self) {
        if self.fin.is_some() {
            return;
        }
        self.fin = Some(self.unacked.max(1) + self.buffer.len() as i64);
        self.state = match self.state {
            State::Established => State::FinWait1,
            State::CloseWait => State::LastAck,
            other => other, // SynReceived: when it is established
        };
    }

    /// Resets the connection.
    pub fn abort(&mut self, out: &mut Vec<Vec<u8>>) {
        if !matches!(self.state, State::SynSent | State::TimeWait | State::Closed) {
            let flags = Flags::RST.with(Flags::ACK);
            out.push(self.segment(flags, self.unsent, &[]).encode(&[]));
        }
        self.state = State::Closed;
        self.timer.progress(0, false);
    }

    /// Sends what the window allows, and an acknowledgement if one is due.
    pub fn flush(&mut self, now_us: u64, out: &mut Vec<Vec<u8>>) {
        if matches!(
            self.state,
            State::SynSent | State::SynReceived | State::TimeWait | State::Closed
        ) {
            self.flush_ack(out);
            return;
        }
        let window = self.peer_window.min(IN_FLIGHT * self.mss as i64);
        let data_end = self.unacked.max(1) + self.buffer.len() as i64;
        loop {
            let room = self.unacked + window - self.unsent;
            let left = data_end - self.unsent;
            if left > 0 && room > 0 {
                let len = left.min(room).min(self.mss as i64);
                self.send_at(self.unsent, len as usize, out);
                self.unsent += len;
                if self.fin == Some(self.unsent) {
                    self.unsent += 1;
                }
            } else if self.fin == Some(self.unsent) {
                self.send_at(self.unsent, 0, out);
                self.unsent += 1;
            } else {
                break;
            }
            self.timer.start(now_us);
        }
        self.flush_ack(out);
    }

    fn flush_ack(&mut self, out: &mut Vec<Vec<u8>>) {
        if self.ack_due {
            self.send_ack(out);
        }
    }

    /// Does what is due. Then [`Tcp::next_us`] tells when to come again.
    pub fn tick(&mut self, now_us: u64, out: &mut Vec<Vec<u8>>) {
        if self.time_wait_until_us.is_some_and(|until_us| until_us <= now_us) {
            self.time_wait_until_us = None;
            self.state = State::Closed;
        }
        match self.timer.expire(now_us) {
            Expiry::NotDue => {}
            Expiry::Again => {
                self.recover = self.unsent;
                self.duplicate_acks = 0;
                self.send_again(out);
            }
            Expiry::GiveUp => {
                self.signals.push_back(Signal::TimedOut(self.state));
                self.state = State::Closed;
            }
        }
    }

    /// When [`Tcp::tick`] has something to do.
    #[must_use]
    pub fn next_us(&self) -> Option<u64> {
        [self.timer.deadline_us(), self.time_wait_until_us].into_iter().flatten().min()
    }

    /// Sends the first segment again that is not acknowledged.
    fn send_again(&mut self, out: &mut Vec<Vec<u8>>) {
        if matches!(self.state, State::SynSent | State::SynReceived) {
            self.send_syn(out);
            return;
        }
        let sent = (self.unsent - self.unacked).min(self.buffer.len() as i64).max(0);
        self.send_at(self.unacked, (sent as usize).min(self.mss), out);
    }

    fn send_syn(&self, out: &mut Vec<Vec<u8>>) {
        let answers = self.state == State::SynReceived;
        let flags = if answers { Flags::SYN.with(Flags::ACK) } else { Flags::SYN };
        let mut syn = self.segment(flags, 0, &[]);
        syn.mss = Some(self.config.mtu - self.header_len());
        // SACK permitted, padding: an option that this TCP does not know itself.
        out.push(syn.encode(&[4, 2, 1, 1]));
    }

    fn header_len(&self) -> u16 {
        if self.local.is_ipv4() { 40 } else { 60 }
    }

    /// Sends `len` bytes from a position on, with the FIN if it is behind them.
    fn send_at(&mut self, at: i64, len: usize, out: &mut Vec<Vec<u8>>) {
        let skip = (at - self.unacked.max(1)) as usize;
        let data: Vec<u8> = self.buffer.range(skip..skip + len).copied().collect();
        let mut flags = Flags::ACK;
        if len > 0 {
            flags = flags.with(Flags::PSH);
        }
        if self.fin == Some(at + len as i64) {
            flags = flags.with(Flags::FIN);
        }
        self.ack_due = false;
        out.push(self.segment(flags, at, &data).encode(&[]));
    }

    fn send_ack(&mut self, out: &mut Vec<Vec<u8>>) {
        self.ack_due = false;
        out.push(self.segment(Flags::ACK, self.unsent, &[]).encode(&[]));
    }

    fn segment<'a>(&self, flags: Flags, at: i64, payload: &'a [u8]) -> Segment<'a> {
        let mut segment = Segment::bare(self.local, self.remote, flags);
        segment.seq = self.seq(at);
        if flags.has(Flags::ACK) {
            segment.ack = self.peer_seq(self.received.next());
        }
        segment.window = self.config.window;
        // Not in full segments, which it would make too long.
        if payload.len() + 20 <= self.mss && !flags.has(Flags::SYN) {
            segment.toa = self.forged;
        }
        segment.payload = payload;
        segment
    }

    fn seq(&self, position: i64) -> u32 {
        self.isn.wrapping_add(position as u32)
    }

    fn peer_seq(&self, position: i64) -> u32 {
        self.peer_isn.wrapping_add(position as u32)
    }
}
