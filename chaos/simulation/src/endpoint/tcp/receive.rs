//! What a segment does to a connection (RFC 9293 section 3.10.7, RFC 5961).

use super::{Signal, State, Tcp};
use crate::endpoint::reassembly::Reassembly;
use crate::endpoint::segment::{Flags, Segment};

impl Tcp {
    /// Takes a segment of this connection. The answer to it may need [`Tcp::flush`].
    pub fn receive(&mut self, now_us: u64, segment: &Segment<'_>, out: &mut Vec<Vec<u8>>) {
        match self.state {
            State::SynSent => self.receive_syn_ack(now_us, segment, out),
            State::Closed => {}
            _ => self.receive_synchronised(now_us, segment, out),
        }
    }

    /// Whether this SYN may open a connection in place of this one, which is in TIME_WAIT: its number
    /// is beyond all that the peer sent (RFC 1122 section 4.2.2.13).
    #[must_use]
    pub fn reopens(&self, syn: &Segment<'_>) -> bool {
        let opens = Flags(syn.flags.0 & 0x17) == Flags::SYN;
        let behind = self.peer_position(syn.seq) - self.received.next();
        self.state == State::TimeWait && opens && behind >= 0
    }

    pub(super) fn learn_syn(&mut self, syn: &Segment<'_>) {
        self.peer_isn = syn.seq;
        self.received = Reassembly::new();
        self.peer_window = i64::from(syn.window);
        let own = self.config.mtu - self.header_len();
        self.mss = usize::from(syn.mss.unwrap_or(536).min(own).max(64));
    }

    fn receive_syn_ack(&mut self, now_us: u64, segment: &Segment<'_>, out: &mut Vec<Vec<u8>>) {
        let flags = segment.flags;
        let acks_syn = flags.has(Flags::ACK) && segment.ack == self.seq(1);
        if flags.has(Flags::ACK) && !acks_syn {
            out.extend(segment.refusal().map(|reset| reset.encode(&[])));
        } else if flags.has(Flags::RST) {
            // Without an acknowledgement anybody could have sent it.
            if acks_syn {
                self.end(Signal::Refused);
            } else {
                self.signals.push_back(Signal::ResetIgnored);
            }
        } else if flags.has(Flags::SYN) && acks_syn {
            self.learn_syn(segment);
            self.unacked = 1;
            self.establish(now_us);
            self.ack_due = true;
        }
    }

    fn establish(&mut self, now_us: u64) {
        self.state = if self.fin.is_some() { State::FinWait1 } else { State::Established };
        self.timer = crate::endpoint::timers::Retransmission::new(
            self.config.retransmit_us,
            self.config.retransmit_most_us,
            self.config.give_up_us,
        );
        self.timer.progress(now_us, self.unsent > self.unacked);
        self.signals.push_back(Signal::Connected);
    }

    fn receive_synchronised(&mut self, now_us: u64, segment: &Segment<'_>, out: &mut Vec<Vec<u8>>) {
        let flags = segment.flags;
        let next = self.received.next();
        let at = self.peer_position(segment.seq);
        let window = i64::from(self.config.window);
        // The SYN again: the SYN-ACK was lost, or the network doubled the SYN.
        if self.state == State::SynReceived && flags.has(Flags::SYN) && at == 0 {
            self.send_syn(out);
            return;
        }
        // As Linux does it, before anything else: the listener goes on waiting.
        if self.state == State::SynReceived
            && flags.has(Flags::ACK)
            && !flags.has(Flags::RST)
            && self.position(segment.ack) != 1
        {
            let mut reset = Segment::bare(self.local, self.remote, Flags::RST);
            reset.seq = segment.ack;
            out.push(reset.encode(&[]));
            self.signals.push_back(Signal::WrongAck(segment.seq, segment.ack));
            return;
        }
        let end = at + i64::from(segment.len());
        let acceptable = if end == at { at >= next } else { end > next } && at < next + window;
        if flags.has(Flags::RST) {
            if at == next {
                self.end(Signal::Reset);
            } else {
                self.signals.push_back(Signal::ResetIgnored);
                if acceptable {
                    self.challenge(now_us, out);
                }
            }
            return;
        }
        if flags.has(Flags::SYN) {
            // The peer's own SYN again is no other connection, and a new one may follow one that ends.
            if at != 0 && !matches!(self.state, State::TimeWait | State::LastAck) {
                self.signals.push_back(Signal::SynOnLiving(segment.seq));
            }
            self.challenge(now_us, out);
            return;
        }
        if !acceptable {
            // With data it is a retransmission, which is always answered; without, rate limited.
            if segment.payload.is_empty() && !flags.has(Flags::FIN) {
                self.challenge(now_us, out);
            } else {
                self.ack_due = true;
                self.restart_time_wait(now_us, flags);
                self.flush_ack(out);
            }
            return;
        }
        if !flags.has(Flags::ACK) || !self.take_ack(now_us, segment, out) {
            return;
        }
        if matches!(self.state, State::TimeWait | State::Closed) {
            return;
        }
        self.take_data(now_us, at, segment);
    }

    /// Takes the acknowledgement. False: the segment is not to be read any further.
    fn take_ack(&mut self, now_us: u64, segment: &Segment<'_>, out: &mut Vec<Vec<u8>>) -> bool {
        let acked = self.position(segment.ack);
        if self.state == State::SynReceived {
            self.unacked = 1;
            self.establish(now_us);
        }
        // RFC 5961 section 5.2.
        if acked > self.unsent || acked < self.unacked - i64::from(self.config.window) {
            self.challenge(now_us, out);
            return false;
        }
        self.peer_window = i64::from(segment.window);
        if acked > self.unacked {
            let data = (acked - self.unacked.max(1)).min(self.buffer.len() as i64);
            self.buffer.drain(..data as usize);
            self.unacked = acked;
            self.duplicate_acks = 0;
            self.timer.progress(now_us, self.unsent > self.unacked);
            if self.unacked < self.recover {
                self.send_again(out);
            }
            if self.fin.is_some_and(|fin| acked > fin) {
                self.own_end_acknowledged(now_us);
            }
        } else if acked == self.unacked && self.unsent > self.unacked && segment.is_empty() {
            self.duplicate_acks += 1;
            if self.duplicate_acks == 3 && self.unacked >= self.recover {
                self.recover = self.unsent;
                self.send_again(out);
            }
        }
        true
    }

    fn take_data(&mut self, now_us: u64, at: i64, segment: &Segment<'_>) {
        let fin = segment.flags.has(Flags::FIN);
        if segment.payload.is_empty() && !fin {
            return;
        }
        let finished = self.received.finished();
        let limit = self.received.next() + i64::from(self.config.window);
        self.received.take(at, segment.payload, fin, limit);
        self.ack_due = true;
        if self.received.finished() && !finished {
            self.signals.push_back(Signal::PeerClosed);
            match self.state {
                State::Established => self.state = State::CloseWait,
                State::FinWait1 => self.state = State::Closing,
                State::FinWait2 => self.begin_time_wait(now_us),
                _ => {}
            }
        }
    }

    fn own_end_acknowledged(&mut self, now_us: u64) {
        match self.state {
            State::FinWait1 => self.state = State::FinWait2,
            State::Closing => self.begin_time_wait(now_us),
            State::LastAck => self.end(Signal::Closed),
            _ => {}
        }
    }

    fn begin_time_wait(&mut self, now_us: u64) {
        self.state = State::TimeWait;
        self.time_wait_until_us = Some(now_us + self.config.time_wait_us);
        self.signals.push_back(Signal::Closed);
    }

    fn restart_time_wait(&mut self, now_us: u64, flags: Flags) {
        if self.state == State::TimeWait && flags.has(Flags::FIN) {
            self.time_wait_until_us = Some(now_us + self.config.time_wait_us);
        }
    }

    /// Ends the connection for good.
    fn end(&mut self, why: Signal) {
        self.state = State::Closed;
        self.timer.progress(0, false);
        self.time_wait_until_us = None;
        self.signals.push_back(why);
    }

    /// Sends an acknowledgement with the exact numbers, unless one was sent a moment ago.
    fn challenge(&mut self, now_us: u64, out: &mut Vec<Vec<u8>>) {
        let free = self
            .last_challenge_us
            .is_none_or(|at| now_us.saturating_sub(at) >= self.config.challenge_us);
        if free {
            self.last_challenge_us = Some(now_us);
            self.send_ack(out);
        }
    }

    /// The position in the own stream that a sequence number means: the one nearest to what was sent.
    fn position(&self, seq: u32) -> i64 {
        nearest(self.unsent, self.seq(self.unsent), seq)
    }

    /// The position in the peer's stream, nearest to what is expected.
    fn peer_position(&self, seq: u32) -> i64 {
        let next = self.received.next();
        nearest(next, self.peer_seq(next), seq)
    }
}

fn nearest(position: i64, its_seq: u32, seq: u32) -> i64 {
    position + i64::from(seq.wrapping_sub(its_seq) as i32)
}
