//! Views over private bytes: Ethernet, VLAN, ARP, IPv4, IPv6, TCP, UDP, ICMP. Unknown is a value; nothing panics.
