//! What is tried, and what is expected of it.

/// One attack.
pub(super) struct Row {
    /// The command.
    pub(super) tool: &'static str,
    /// The drop reasons that count it.
    pub(super) counted: &'static [&'static str],
    /// The protocol above IP of what arrives in spite of it, since it is true.
    pub(super) arrives: Option<u8>,
}

const TCP: u8 = 6;
pub(super) const ICMPV6: u8 = 58;

/// Under port security with addresses: `mac`, `ip`, and nothing that the port may besides.
pub(super) const GUARDED: &[Row] = &[
    // thc-ipv6
    row("atk6-fake_router26 evil", &["router-refused"], None),
    row("atk6-flood_router26 evil", &["source-mac-spoofed"], None),
    row(
        "atk6-fake_advertise6 evil fd00:9::2 ff02::1",
        &["nd-spoofed"],
        None,
    ),
    row("atk6-flood_advertise6 evil", &["source-mac-spoofed"], None),
    row("atk6-fake_mld6 evil add ff05::1234", &[], Some(ICMPV6)),
    // (Hop-by-hop options of 408 bytes: what is behind them is not seen, so it does not pass.)
    row("atk6-denial6 evil fd00:9::2 1", &["headers-too-long"], None),
    // ipv6toolkit
    row(
        "na6 -i evil -s fd00:9::2 -S 52:54:00:00:00:01 -d ff02::1 -t fd00:9::2 -E 52:54:00:00:00:01 -o",
        &["nd-spoofed"],
        None,
    ),
    row(
        "ra6 -i evil -d ff02::1 -P fd00:bad::/64#LA#100#100",
        &["router-refused"],
        None,
    ),
    row(
        "rd6 -i evil -s fe80::bad -S 52:54:00:00:00:01 -d fd00:9::2 -r fd00:9::3 -t fe80::bad",
        &["nd-spoofed"],
        None,
    ),
    row(
        "ns6 -i evil -s fd00:9::3 -S 52:54:00:00:00:01 -d fd00:9::2 -t fd00:9::2",
        &["nd-spoofed"],
        None,
    ),
    // (rd6 makes itself a link-local address that is not its MAC address's, and gets no further.)
    row(
        "scapy IPV6/ICMPv6ND_Redirect(tgt='fe80::bad',dst='fd00:9::3')",
        &["router-refused"],
        None,
    ),
    // yersinia
    row(
        "yersinia stp -attack 0 -interface evil",
        &["reserved-group"],
        None,
    ),
    row(
        "yersinia cdp -attack 1 -interface evil",
        &["reserved-group"],
        None,
    ),
    row(
        "yersinia dhcp -attack 1 -interface evil",
        &["source-mac-spoofed"],
        None,
    ),
    // dsniff
    row(
        "arpspoof -i evil -t 10.9.0.2 10.9.0.3",
        &["arp-spoofed"],
        None,
    ),
    row("macof -i evil -n 200", &["source-mac-spoofed"], None),
    // hping3
    row(
        "hping3 -I evil -a 10.9.0.3 -S -p 80 -c 5 -i u1000 10.9.0.2",
        &["source-ip-spoofed"],
        None,
    ),
    row(
        "hping3 -I evil --rand-source --flood -S -p 80 10.9.0.2",
        &["source-ip-spoofed"],
        None,
    ),
    row(
        "hping3 -I evil -S -p 80 -c 5 -i u1000 10.9.0.2",
        &[],
        Some(TCP),
    ),
    // nmap (which asks for an address once, also under -Pn, and without an answer sends nothing)
    row(
        "nmap -Pn --disable-arp-ping -n -sS -D 10.9.0.3,10.9.0.4,ME -p 80 -e evil --max-retries 0 10.9.0.2",
        &["source-ip-spoofed"],
        Some(TCP),
    ),
    row(
        "nmap -Pn --disable-arp-ping -n -sS -f -p 80 -e evil --max-retries 0 10.9.0.2",
        &["control-fragmented"],
        Some(TCP),
    ),
    row(
        "nmap -Pn --disable-arp-ping -n -sS --spoof-mac 52:54:00:00:00:03 -p 80 -e evil --max-retries 0 10.9.0.2",
        &["source-mac-spoofed"],
        None,
    ),
    // scapy: VU#855201, a router advertisement in every wrapping that hides it from filters
    row("scapy Dot1Q(vlan=0)/RA", &["encapsulation-refused"], None),
    row(
        "scapy Dot1Q(vlan=0)/Dot1Q(vlan=0)/RA",
        &["encapsulation-refused"],
        None,
    ),
    row("scapy Dot1AD(vlan=0)/RA", &["encapsulation-refused"], None),
    row("scapy SNAPPED/RA", &["encapsulation-refused"], None),
    row(
        "scapy Dot1Q(vlan=0,type=len(SNAPPED/RA))/SNAPPED/RA",
        &["encapsulation-refused"],
        None,
    ),
    row(
        "scapy Dot1Q(vlan=0,type=len(SNAPPED/RA))/Dot1Q(vlan=0)/SNAPPED/RA",
        &["encapsulation-refused"],
        None,
    ),
    row(
        "scapy IPV6/IPv6ExtHdrDestOpt()/ADVERT",
        &["router-refused"],
        None,
    ),
    row(
        "scapy IPV6/IPv6ExtHdrFragment(offset=0,m=1)/ADVERT",
        &["router-refused"],
        None,
    ),
    row(
        "scapy IPV6/IPv6ExtHdrFragment(offset=1,m=0,nh=58)/ADVERT",
        &[],
        Some(ICMPV6),
    ),
];

/// The same on a switch whose default is to deny: what is true does not arrive either.
pub(super) const DENIED: &[Row] = &[
    row(
        "hping3 -I evil -S -p 80 -c 5 -i u1000 10.9.0.2",
        &["not-allowed"],
        None,
    ),
    row(
        "nmap -Pn --disable-arp-ping -n -sS -f -p 80 -e evil --max-retries 0 10.9.0.2",
        &["not-allowed"],
        None,
    ),
    row("atk6-fake_mld6 evil add ff05::1234", &["not-allowed"], None),
    row("atk6-fake_router26 evil", &["router-refused"], None),
];

const fn row(tool: &'static str, counted: &'static [&'static str], arrives: Option<u8>) -> Row {
    Row {
        tool,
        counted,
        arrives,
    }
}
