//! The closed set of reasons for which a frame does not arrive.

use std::fmt;

/// Where a reason can be the outcome of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Judged before any receiver is considered: counted at the source only.
    Ingress,
    /// Found out at a receiver: counted as undelivered there, and as dropped at the source when no receiver
    /// at all took the frame.
    Egress,
}

macro_rules! reasons {
    ($( $(#[doc = $doc:literal])+ $variant:ident $name:literal $side:ident; )+) => {
        /// Why a frame, or one copy of it, was not delivered. Closed: whoever adds a case adds its line here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $( $(#[doc = $doc])+ $variant, )+
        }

        impl DropReason {
            /// Every reason, in the order of their indices.
            pub const ALL: &'static [Self] = &[$( Self::$variant, )+];

            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The reason's name in kebab case: as status, logs and metrics print it.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $name, )+ }
            }

            /// Whether the reason belongs to the source or is found out at a receiver.
            pub const fn side(self) -> Side {
                match self { $( Self::$variant => Side::$side, )+ }
            }

            /// One or two sentences for the reader of a status table.
            pub fn describe(self) -> &'static str {
                match self { $( Self::$variant => concat!($($doc),+).trim_ascii(), )+ }
            }
        }
    };
}

reasons! {
    // The ring and what stands before the frame.
    /// The descriptor chain broke a rule of the ring; its head went back with length 0.
    MalformedChain "malformed-chain" Ingress;
    /// The front-end has disabled the guest's TX ring: frames in it are discarded (vhost-user: SET_VRING_ENABLE).
    RingDisabled "ring-disabled" Ingress;
    /// The sender's memory failed while the frame was read.
    SenderFault "sender-fault" Ingress;
    /// The step that held the frame was abandoned through a fault of the switch itself.
    StepAbandoned "step-abandoned" Ingress;
    /// No policy is bound to the source port yet, or any more.
    NoPolicy "no-policy" Ingress;

    // The frame itself.
    /// Shorter than an Ethernet header.
    Runt "runt" Ingress;
    /// Longer than any frame that the switch takes.
    Oversize "oversize" Ingress;
    /// The headers run past what the switch looks at.
    HeadersTooLong "headers-too-long" Ingress;
    /// The virtio-net header asks for a checksum where the frame has none to complete.
    BadOffload "bad-offload" Ingress;
    /// The virtio-net header asks for a segmentation that does not fit the frame, or was never negotiated.
    GsoInvalid "gso-invalid" Ingress;

    // The gate.
    /// The source MAC is zero, or a group address.
    SourceMacInvalid "source-mac-invalid" Ingress;
    /// The source MAC is declared for another port, or was heard there lately and is claimed by a guest's first frame.
    MacOfOtherPort "mac-of-other-port" Ingress;
    /// Towards a group address that no bridge forwards (IEEE 802.1Q, table 8-1; Cisco's discovery group).
    ReservedGroup "reserved-group" Ingress;
    /// The source MAC is neither declared for the port nor the one that it was first heard with.
    SourceMacSpoofed "source-mac-spoofed" Ingress;
    /// The source IP address is not one of the port's.
    SourceIpSpoofed "source-ip-spoofed" Ingress;
    /// An ARP packet that speaks for an address that is not the port's, or contradicts itself (RFC 826, RFC 5227).
    ArpSpoofed "arp-spoofed" Ingress;
    /// A neighbour discovery packet that speaks for an address that is not the port's, or contradicts itself (RFC 4861).
    NdSpoofed "nd-spoofed" Ingress;
    /// A DHCP client's packet in another client's name (RFC 2131: chaddr; RFC 8415: client link-layer address).
    DhcpSpoofed "dhcp-spoofed" Ingress;
    /// A DHCP server's packet from a port that may not serve DHCP (RFC 7610).
    DhcpServerRefused "dhcp-server-refused" Ingress;
    /// A router advertisement or redirect from a port that may not be a router (RFC 6105, RFC 7113).
    RouterRefused "router-refused" Ingress;
    /// A link protocol (spanning tree, LLDP, EAPOL, ...) that the port may not speak; where `ip` binds addresses, whatever is neither IP
    /// nor ARP.
    ProtocolRefused "protocol-refused" Ingress;
    /// LLC/SNAP, a priority tag or nested tags around a packet that a guard judges when it comes plain (VU#855201).
    EncapsulationRefused "encapsulation-refused" Ingress;
    /// A fragment, or headers that cannot be followed, where a guard must see the whole (RFC 6980, RFC 7112, RFC 7113).
    ControlFragmented "control-fragmented" Ingress;
    /// A header that contradicts itself or the frame, or asks for a source route, where a rule or a guard reads it.
    HeaderInvalid "header-invalid" Ingress;
    /// More ARP and neighbour discovery packets than the port may send.
    AddressingRate "addressing-rate" Ingress;
    /// More addresses or leases than the port may have.
    AddressLimit "address-limit" Ingress;
    /// To more multicast groups than the port may send to in a minute.
    GroupLimit "group-limit" Ingress;
    /// More reports of multicast memberships (IGMP, MLD) than the port may send.
    MembershipRate "membership-rate" Ingress;
    /// More broadcast than the port may send.
    StormBroadcast "storm-broadcast" Ingress;
    /// More multicast than the port may send.
    StormMulticast "storm-multicast" Ingress;
    /// More to unknown destinations than the port may send.
    StormUnknown "storm-unknown" Ingress;
    /// More than the port may send.
    SendRate "send-rate" Ingress;
    /// The port is in quarantine.
    Quarantined "quarantined" Ingress;
    /// A rule of the sender's outbound list.
    DeniedOutbound "denied-outbound" Ingress;
    /// A rule of the receiver's inbound list.
    DeniedInbound "denied-inbound" Ingress;
    /// No rule allows it: the end of a list, or a switch whose default is deny.
    NotAllowed "not-allowed" Ingress;
    /// A rule that refuses with an answer to the sender.
    Rejected "rejected" Ingress;
    /// A packet that belongs to no connection and can open none (out of window, impossible flags, an error about nothing).
    ConnectionInvalid "connection-invalid" Ingress;
    /// The port has as many connections as it may.
    ConnectionLimit "connection-limit" Ingress;
    /// The port has as many half-open connections as it may.
    HalfOpenLimit "half-open-limit" Ingress;
    /// The port opens connections faster than it may.
    ConnectionRate "connection-rate" Ingress;

    // The fabric.
    /// The frame's VLAN is not among those of its port, or it is untagged on a trunk without a native VLAN.
    VlanNotAllowed "vlan-not-allowed" Ingress;
    /// A tag that should not be there: on an access port, a priority tag, a second tag, VID 4095, a tag cut short.
    VlanSmuggled "vlan-smuggled" Ingress;
    /// The destination is on a port that the source may not reach.
    Unreachable "unreachable" Ingress;
    /// The destination is on the port that the frame came from.
    Hairpin "hairpin" Ingress;
    /// Nobody within reach shares the frame's segment.
    NoDestination "no-destination" Ingress;

    // The receiver.
    /// The receiver has no front-end, or its RX ring is not running or not enabled.
    ReceiverDown "receiver-down" Egress;
    /// The receiver's guest has posted too few buffers.
    ReceiverFull "receiver-full" Egress;
    /// The receiver's buffers are smaller than the frame, and it did not negotiate merging them.
    ReceiverTooSmall "receiver-too-small" Egress;
    /// The receiver's ring is broken, or its memory failed while the frame was written.
    ReceiverFault "receiver-fault" Egress;
    /// More than the receiver may be sent.
    ReceiveRate "receive-rate" Egress;
    /// The frame is longer than the receiver's MTU allows.
    OverMtu "over-mtu" Egress;
    /// The receiver cannot take the frame whole, and it cannot be segmented.
    NotSegmentable "not-segmentable" Egress;
    /// The receiver cannot take the frame whole, others have it already, and the burst was cut into as many segments as
    /// one visit may be for receivers beyond the first.
    CutLimit "cut-limit" Egress;
    /// Others have the frame already, and as many bytes were copied as one visit may copy for receivers beyond the first.
    FloodLimit "flood-limit" Egress;
}

// A `Tally` keeps one bit for each reason.
const _: () = assert!(DropReason::COUNT <= 64);

impl DropReason {
    /// The position in [`DropReason::ALL`]; below [`DropReason::COUNT`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The reason with that kebab-case name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.name() == name)
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
