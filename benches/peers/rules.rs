//! The same ten rules for two switches: nine that say nothing of the load's frames, and one that lets them pass and their
//! connections open.

use std::path::PathBuf;

/// What the load's frames are sent to.
const PORT: u16 = 7676;
/// Rules before.
const OTHERS: u16 = 9;

/// Ours: MAC and IP addresses guarded, ten rules for what each port sends and for what it receives.
pub(super) fn config(ports: &[PathBuf]) -> String {
    let mut rules: String = (1..=OTHERS)
        .map(|n| {
            let port = 8000 + n;
            format!("    {{ allow = \"udp\", to = \"172.16.{n}.0/24\", port = {port} }},\n")
        })
        .collect();
    rules.push_str(&format!("    {{ allow = \"udp\", port = {PORT} }},\n"));
    let ports: String = ports
        .iter()
        .enumerate()
        .map(|(n, path)| {
            format!(
                "\n[port.p{n}]\nsocket = \"{}\"\nip = [\"10.76.0.0/16\"]\nacl = \"ten\"\n",
                path.display()
            )
        })
        .collect();
    format!("[acl.ten]\noutbound = [\n{rules}]\ninbound = [\n{rules}]\n{ports}")
}

/// Theirs: connection tracking, the same rules for new connections, NORMAL for what passes.
pub(super) fn flows() -> String {
    let rules: String = (1..=OTHERS)
        .map(|n| {
            let (priority, port) = (90 - n, 8000 + n);
            format!(
                "table=1,priority={priority},ct_state=+trk+new,udp,nw_dst=172.16.{n}.0/24,tp_dst={port},\
                 actions=ct(commit),NORMAL\n"
            )
        })
        .collect();
    format!(
        "table=0,priority=100,arp,actions=NORMAL\n\
         table=0,priority=50,ip,actions=ct(table=1)\n\
         table=0,priority=0,actions=drop\n\
         table=1,priority=100,ct_state=+trk+est,actions=NORMAL\n\
         table=1,priority=99,ct_state=+trk+inv,actions=drop\n\
         {rules}\
         table=1,priority=10,ct_state=+trk+new,udp,tp_dst={PORT},actions=ct(commit),NORMAL\n\
         table=1,priority=0,actions=drop\n"
    )
}
