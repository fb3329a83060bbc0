//! Domains, and their interfaces that use a filter.

use roxmltree::Node;

use super::ImportError;
use super::xml::{Text, Variables, parameters};

/// An interface of a domain that uses the filter.
#[derive(Debug, Clone)]
pub(super) struct Interface {
    /// A name for its port.
    pub(super) name: String,
    pub(super) socket: String,
    /// Whether the domain names the socket; else it is made up.
    pub(super) has_socket: bool,
    /// Whether there is a domain at all.
    pub(super) is_real: bool,
    /// `<parameter>`s, and `MAC`.
    pub(super) variables: Variables,
}

impl Interface {
    /// For a filter without a domain.
    pub(super) fn stand_in() -> Self {
        Self {
            name: "guest".to_owned(),
            socket: "/run/portcullis/guest.sock".to_owned(),
            has_socket: false,
            is_real: false,
            variables: Variables::new(),
        }
    }
}

/// The interfaces of a domain that use the filter of that name.
pub(super) fn interfaces(text: &Text<'_>, filter: &str) -> Result<Vec<Interface>, ImportError> {
    let root = text.document.root_element();
    if !root.has_tag_name("domain") {
        let problem = format!(
            "<{}> is no <domain>; name what virsh dumpxml prints",
            root.tag_name().name()
        );
        return Err(text.strange(root, problem));
    }
    let child = |node: Node<'_, '_>, name: &str| -> Option<roxmltree::NodeId> {
        let found = node.children().find(|node| node.has_tag_name(name));
        found.map(|node| node.id())
    };
    let domain = child(root, "name").and_then(|id| text.document.get_node(id));
    let domain = domain
        .and_then(|node| node.text())
        .unwrap_or("guest")
        .trim()
        .to_owned();
    let mut interfaces = Vec::new();
    for node in root
        .descendants()
        .filter(|node| node.has_tag_name("interface"))
    {
        let get = |name: &str| child(node, name).and_then(|id| text.document.get_node(id));
        let Some(reference) = get("filterref") else {
            continue;
        };
        if reference.attribute("filter") != Some(filter) {
            continue;
        }
        let mut variables = parameters(reference);
        let mac = get("mac").and_then(|node| node.attribute("address"));
        if let Some(mac) = mac {
            variables
                .entry("MAC".to_owned())
                .or_insert_with(|| vec![mac.to_lowercase()]);
        }
        let name = port_name(&domain, interfaces.len());
        let source = get("source").filter(|node| node.attribute("type") == Some("unix"));
        let socket = source.and_then(|node| node.attribute("path"));
        interfaces.push(Interface {
            socket: socket.map_or_else(|| format!("/run/portcullis/{name}.sock"), str::to_owned),
            has_socket: socket.is_some(),
            is_real: true,
            name,
            variables,
        });
    }
    if interfaces.is_empty() {
        let problem = format!(
            "no interface of this domain uses filter {filter:?}; name another domain or filter"
        );
        return Err(text.strange(root, problem));
    }
    Ok(interfaces)
}

/// A name for a port: the domain's, with the number of the interface after the first.
fn port_name(domain: &str, index: usize) -> String {
    let plain = domain
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
    let name: String = plain.take(24).collect();
    let name = name.trim_start_matches('-');
    let name = if name.is_empty() { "guest" } else { name };
    match index {
        0 => name.to_owned(),
        index => format!("{name}-{index}"),
    }
}
