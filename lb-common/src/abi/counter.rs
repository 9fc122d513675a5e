//! Counters and numbered drop reasons.
//!
//! Every packet is counted once under [`Counter::Received`] and once under exactly one of the
//! others up to [`COUNTER_COUNT`], so received = forwarded + passed + dropped holds at all times.
//! A number is never used again for another meaning.

macro_rules! counters {
    (
        $(#[doc = $about:literal])+ $all:ident;
        $($(#[doc = $doc:literal])+ $name:ident = $number:literal, $label:literal, $kind:ident;)+
    ) => {
        $(#[doc = $about])+
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $all {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        impl $all {
            /// All counters in order.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The stable name: metric label, API field and log word.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// What it counts, in sentences.
            #[must_use]
            pub const fn about(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)+ }
            }

            /// What became of the packets that are counted here.
            #[must_use]
            pub const fn kind(self) -> $crate::CounterKind {
                match self { $(Self::$name => $crate::CounterKind::$kind,)+ }
            }
        }
    };
}

pub(super) use counters;

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CounterKind {
    /// Arrived.
    Received,
    /// Left by the program, changed or answered.
    Forwarded,
    /// Went to the host's network stack, untouched.
    Passed,
    /// Refused for a numbered reason.
    Dropped,
    /// Beside the sum: an event that is not the fate of a packet.
    Event,
}

/// Counters of a CPU, used or not; room for later reasons. A power of two: the kernel program
/// masks an index with it.
pub const COUNTER_COUNT: usize = 64;

/// All counters of one CPU as one map value: one look-up serves all counts of a packet, and one
/// system call reads them all.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// By [`Counter`].
    pub values: [u64; COUNTER_COUNT],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            values: [0; COUNTER_COUNT],
        }
    }
}

impl Counters {
    /// What has been counted under `counter`.
    #[must_use]
    pub const fn get(&self, counter: Counter) -> u64 {
        self.values[counter as usize]
    }

    /// Adds another CPU's counters.
    pub fn add(&mut self, other: &Self) {
        for (sum, value) in self.values.iter_mut().zip(&other.values) {
            *sum = sum.wrapping_add(*value);
        }
    }

    /// The sum of all counters of one kind.
    #[must_use]
    pub fn total(&self, kind: CounterKind) -> u64 {
        Counter::ALL
            .iter()
            .filter(|c| c.kind() == kind)
            .map(|c| self.get(*c))
            .sum()
    }

    /// Whether received = forwarded + passed + dropped.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        self.total(CounterKind::Received)
            == self.total(CounterKind::Forwarded)
                + self.total(CounterKind::Passed)
                + self.total(CounterKind::Dropped)
    }
}

/// Reasons why packets of a VIP were not forwarded, used or not. A power of two, as [`COUNTER_COUNT`].
pub const DROP_COUNT: usize = 32;

/// What became of a VIP's packets that were not forwarded. Half of all counters, because each VIP has these on
/// each processor.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// By [`Self::index`].
    pub values: [u64; DROP_COUNT],
}

impl Drops {
    /// The place of a reason that [`Counter::is_lost`].
    #[inline(always)]
    #[must_use]
    pub const fn index(reason: Counter) -> usize {
        let number = reason as usize;
        // Those that are dropped begin with 16. The others have even numbers below.
        if number < 16 {
            24 + number / 2
        } else {
            number - 16
        }
    }

    /// Adds them to counters.
    pub fn add_to(&self, counters: &mut Counters) {
        for reason in Counter::ALL.iter().filter(|reason| reason.is_lost()) {
            let sum = &mut counters.values[*reason as usize];
            *sum = sum.wrapping_add(self.values[Self::index(*reason)]);
        }
    }
}

impl Counter {
    /// Whether a packet that is counted here did not reach the other side of its connection: it was dropped, or
    /// lb has answered it in the place of whoever it was for.
    #[must_use]
    pub const fn is_lost(self) -> bool {
        matches!(self.kind(), CounterKind::Dropped)
            || matches!(
                self,
                Self::AnsweredTooBig | Self::AnsweredRefused | Self::AnsweredStale
            )
    }
}

const _: () = assert!(COUNTER_COUNT.is_power_of_two() && size_of::<Counters>() == 512);

counters! {
    /// Index into the counter map.
    Counter;
    /// Packets that the program has seen.
    Received = 0, "received", Received;
    /// Sent back out of the interface they came in by.
    Transmitted = 1, "transmitted", Forwarded;
    /// Sent out of another interface.
    Redirected = 2, "redirected", Forwarded;
    /// Neither IPv4 nor IPv6.
    PassedNotIp = 3, "not_ip", Passed;
    /// Neither TCP nor UDP.
    PassedOtherProtocol = 4, "other_protocol", Passed;
    /// A later fragment, which has no ports, of a datagram that is of no connection.
    PassedFragment = 5, "fragment", Passed;
    /// Too short or with impossible lengths: left to the stack to judge.
    PassedMalformed = 6, "malformed", Passed;
    /// Not for a VIP.
    PassedNotVip = 7, "not_vip", Passed;
    /// For lb's own address in the `nat` port range, but of no known connection.
    PassedNoConnection = 8, "no_connection", Passed;
    /// More IPv6 extension headers than are walked.
    PassedExtensionHeaders = 9, "extension_headers", Passed;
    /// Too large for the way to its instance: its sender was told the size that fits.
    AnsweredTooBig = 10, "answered_too_big", Forwarded;
    /// An echo request for a VIP, which was answered.
    AnsweredEcho = 11, "answered_echo", Forwarded;
    /// For a VIP whose service has no instance to take it, and wants its clients to be told: by a TCP
    /// reset, or an ICMP message.
    AnsweredRefused = 12, "answered_refused", Forwarded;

    /// A SYN that was answered by a cookie: nothing is remembered of it.
    AnsweredCookie = 13, "answered_cookie", Forwarded;
    /// From an instance that is asked to begin a connection and takes it for one that is over, of the same
    /// addresses and ports: answered by a reset, which makes it forget that one.
    AnsweredStale = 14, "answered_stale", Forwarded;

    /// For a VIP whose service has no instance to take it.
    DropNoInstance = 16, "no_instance", Dropped;
    /// All tried source ports for `nat` towards the instance are in use.
    DropNatPorts = 18, "nat_ports_exhausted", Dropped;
    /// The connection table is full and the connection cannot work without an entry.
    DropTableFull = 19, "connection_table_full", Dropped;
    /// There is no route to the next hop.
    DropNoRoute = 20, "no_route", Dropped;
    /// The next hop's MAC address is not known yet.
    DropNoNeighbour = 21, "neighbour_unresolved", Dropped;
    /// TTL or hop limit would reach zero.
    DropTtl = 22, "ttl_expired", Dropped;
    /// Larger than what the way takes, and its sender could not be told: too many were told in this
    /// second, or the packet does not allow an answer.
    DropTooBig = 23, "too_big", Dropped;
    /// Client and instance are of different families.
    DropFamily = 24, "family_mismatch", Dropped;
    /// lb has no source address of the family for `nat`.
    DropNoNatSource = 25, "no_nat_source", Dropped;
    /// A TCP reset for a VIP without a connection.
    DropStrayReset = 26, "stray_reset", Dropped;
    /// The kernel's `forwarding` setting of the incoming interface is off, and without it the
    /// kernel answers no route look-ups.
    DropForwardingDisabled = 27, "forwarding_disabled", Dropped;
    /// An `l2dsr` instance is behind a router, which would send the packet back to the VIP.
    DropNotOnLink = 28, "instance_not_on_link", Dropped;
    /// The packet ended inside headers that had been read before: a defect of this program.
    DropRewrite = 29, "rewrite_failed", Dropped;
    /// A later stage of the program is not there: it was loaded incompletely.
    DropNoStage = 31, "stage_missing", Dropped;
    /// There is no room in front of the packet for an outer header.
    DropHeadroom = 32, "no_headroom", Dropped;
    /// lb has no source address of the instance's family for a tunnel.
    DropNoTunnelSource = 33, "no_tunnel_source", Dropped;
    /// With `dnat`: the client has a connection to the same instance from the same port already,
    /// through another VIP, and replies could not be told apart.
    DropReplyTaken = 34, "reply_tuple_in_use", Dropped;
    /// For a VIP all of whose instances that were looked at have as many connections as they may
    /// have.
    DropConnectionLimit = 35, "connection_limit", Dropped;
    /// An echo request for a VIP beyond what is answered in a second.
    DropEchoLimit = 36, "echo_limit", Dropped;
    /// A later fragment for a VIP that came before the first one, from a client that no first one has
    /// come from for a while.
    DropFragmentEarly = 37, "fragment_before_first", Dropped;
    /// A later fragment of a connection that is over, or whose instance is gone.
    DropFragmentLost = 38, "fragment_without_connection", Dropped;
    /// For a VIP, from a source that the ACL denies.
    DropDenied = 39, "source_denied", Dropped;
    /// It would have begun a connection, and its service has had as many new ones as it may have.
    DropArrivals = 40, "new_connection_limit", Dropped;
    /// It would have begun a connection, and its source has begun as many as one may.
    DropSourceArrivals = 41, "source_connection_limit", Dropped;
    /// It would have begun a connection while SYNs are answered by cookies, and cannot be answered: it has
    /// options of IP, extension headers or no single sender.
    DropUnanswerable = 42, "syn_unanswerable", Dropped;
    /// Of a connection that was begun by a SYN cookie and whose instance has not answered yet, and it
    /// shows that cookie too late or not at all; or from that instance, and no answer.
    DropUnspliced = 43, "connection_unspliced", Dropped;

    /// Times that a router has said that a tunnel's packet was too big for the path to its instance.
    PathMtusLearned = 47, "path_mtus_learned", Event;

    /// Connections begun.
    ConnectionsOpened = 48, "connections_opened", Event;
    /// Connections whose end was seen.
    ConnectionsClosed = 49, "connections_closed", Event;
    /// Connections that were forwarded without an entry because the table was full.
    ConnectionsUnremembered = 50, "connections_unremembered", Event;
    /// Connections that moved because their instance went down.
    ConnectionsMoved = 51, "connections_moved", Event;
    /// Source ports tried beyond the first.
    NatPortRetries = 52, "nat_port_retries", Event;
    /// Route look-ups.
    RouteLookups = 53, "route_lookups", Event;
    /// Connections whose client or instance was told to send smaller packets than the other one takes,
    /// because a way between them takes less.
    MssClamped = 54, "mss_clamped", Event;
    /// Packets that found their instance by a settled slot, without an entry in the connection table.
    PacketsSettled = 55, "packets_settled", Event;
    /// Connections that were remembered after they had begun, because their slot changed hands.
    ConnectionsFound = 56, "connections_found", Event;
    /// Connections of which nothing but one packet was heard that made room for newer ones.
    OpeningsForgotten = 57, "openings_forgotten", Event;
    /// Packets that were recorded, because somebody follows packets like these.
    FlowsRecorded = 58, "flows_recorded", Event;
    /// Packets that would have been recorded, but the ring was full, or there were too many in this
    /// second.
    FlowsLost = 59, "flows_lost", Event;
    /// Packets that have shown the SYN cookie that was made for their client, and have begun a connection
    /// if there was room for one.
    CookiesAccepted = 60, "cookies_accepted", Event;
    /// Packets of no known connection that have shown none, or one that was too old, while cookies were
    /// about.
    CookiesRefused = 61, "cookies_refused", Event;
    /// New connections that went to the instance of their client.
    AffinityFollowed = 62, "affinity_followed", Event;
    /// Connections of clients whose instance is not remembered because there is no room.
    AffinityUnremembered = 63, "affinity_unremembered", Event;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_add_up_over_processors_and_kinds() {
        let mut one = Counters::default();
        one.values[Counter::Received as usize] = 3;
        one.values[Counter::Transmitted as usize] = 1;
        one.values[Counter::PassedNotVip as usize] = 1;
        assert!(!one.adds_up());
        one.values[Counter::DropTtl as usize] = 1;
        one.values[Counter::RouteLookups as usize] = 9;
        assert!(one.adds_up());
        let mut both = one;
        both.add(&one);
        assert_eq!(both.total(CounterKind::Received), 6);
        assert_eq!(both.get(Counter::DropTtl), 2);
        assert!(both.adds_up());
    }

    #[test]
    fn each_reason_has_a_place_of_its_own() {
        let reasons = || Counter::ALL.iter().filter(|reason| reason.is_lost());
        let mut drops = Drops::default();
        for (number, reason) in (1..).zip(reasons()) {
            let place = &mut drops.values[Drops::index(*reason)];
            assert_eq!(*place, 0, "{reason:?}");
            *place = number;
        }
        let mut counters = Counters::default();
        drops.add_to(&mut counters);
        drops.add_to(&mut counters);
        for (number, reason) in (1..).zip(reasons()) {
            assert_eq!(counters.get(*reason), 2 * number, "{reason:?}");
        }
        assert_eq!(counters.get(Counter::Received), 0);
    }

    #[test]
    fn what_a_counter_counts_is_told_in_sentences() {
        for counter in Counter::ALL {
            let about = counter.about().trim();
            assert!(about.ends_with('.') && !about.contains("[`"), "{about}");
        }
    }

    #[test]
    fn numbers_and_labels_are_unique_and_fit() {
        for (i, a) in Counter::ALL.iter().enumerate() {
            assert!((*a as usize) < COUNTER_COUNT);
            for b in &Counter::ALL[i + 1..] {
                assert_ne!(*a as u32, *b as u32);
                assert_ne!(a.label(), b.label());
            }
        }
    }
}
