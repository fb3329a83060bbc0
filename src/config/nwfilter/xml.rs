//! Filters and domains, read.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use roxmltree::{Document, Node};

use super::{ImportError, Remark};
use crate::config::filters;
use crate::config::shared::Parameters;
use crate::policy::rule::{Kind, Rule};

/// Bytes of one file.
const MAX_TEXT: u64 = 4 << 20;
/// Filters within filters.
const MAX_DEPTH: usize = 16;
/// Rules of one filter with all that it refers to.
const MAX_RULES: usize = 16_384;
/// What libvirt gives a rule that names no priority.
const RULE_PRIORITY: i32 = 500;
/// Chains that libvirt knows, by the beginning of their names, with their priorities.
const CHAINS: [(&str, i32); 8] = [
    ("root", 0),
    ("stp", -810),
    ("mac", -800),
    ("vlan", -750),
    ("ipv4", -700),
    ("ipv6", -600),
    ("arp", -500),
    ("rarp", -400),
];

/// The values of a variable.
pub(super) type Variables = HashMap<String, Vec<String>>;

/// The whole text of a file.
pub(super) fn read(file: &Path) -> Result<String, ImportError> {
    use std::io::Read;
    let unreadable = |source| ImportError::Unreadable {
        file: file.to_owned(),
        source,
    };
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    opened
        .take(MAX_TEXT + 1)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    if text.len() as u64 > MAX_TEXT {
        return Err(ImportError::Xml {
            file: file.display().to_string(),
            text: format!("longer than {} MiB", MAX_TEXT >> 20),
        });
    }
    Ok(text)
}

/// A file, parsed. Entities of a DTD are refused.
pub(super) struct Text<'t> {
    file: String,
    pub(super) document: Document<'t>,
}

impl<'t> Text<'t> {
    pub(super) fn parse(file: &Path, text: &'t str) -> Result<Self, ImportError> {
        let file = file.display().to_string();
        let document = Document::parse(text).map_err(|error| ImportError::Xml {
            file: file.clone(),
            text: error.to_string(),
        })?;
        Ok(Self { file, document })
    }

    fn line(&self, node: Node<'_, '_>) -> u32 {
        self.document.text_pos_at(node.range().start).row
    }

    pub(super) fn strange(&self, node: Node<'_, '_>, text: impl Into<String>) -> ImportError {
        ImportError::Strange {
            file: self.file.clone(),
            line: self.line(node),
            text: text.into(),
        }
    }
}

/// A `<filter>`, read.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    pub(super) name: String,
    file: String,
    chain: String,
    priority: Option<i32>,
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Rule(RawRule),
    Reference {
        line: u32,
        name: String,
        parameters: Variables,
    },
}

/// A `<rule>`, read.
#[derive(Debug, Clone)]
pub(super) struct RawRule {
    pub(super) file: String,
    pub(super) line: u32,
    pub(super) action: String,
    pub(super) direction: String,
    pub(super) priority: i32,
    /// `statematch='false'`.
    pub(super) is_stateless: bool,
    /// Its elements: the protocol and its attributes. Usually one, or none for everything in the chain.
    pub(super) protocols: Vec<(String, Vec<(String, String)>)>,
}

/// Where a rule stands among all others, sorted: priority of the chain in the root, of the rule in its chain, then as
/// written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) chain: i32,
    pub(super) name: String,
    pub(super) rule: i32,
    pub(super) sequence: usize,
}

/// One rule of the filter with all that it refers to.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) at: Position,
    /// Variables as they are where it stands.
    pub(super) variables: Variables,
    pub(super) what: What,
}

#[derive(Debug, Clone)]
pub(super) enum What {
    Rule(RawRule),
    /// A rule of one of libvirt's own filters, which are here already: outbound or inbound.
    Ready {
        is_outbound: bool,
        rule: Box<Rule>,
    },
    /// Such a filter guards the guest's own MAC address, and its IP addresses if `ip`.
    Guard {
        ip: bool,
    },
}

/// All filters that can be referred to.
pub(super) struct Library {
    directory: PathBuf,
    filters: HashMap<String, Option<Filter>>,
    /// Filters that are to be left out when they are not here.
    without: Vec<String>,
}

impl Library {
    pub(super) fn new(file: &Path, without: &[String]) -> Self {
        let directory = file.parent().map_or_else(PathBuf::new, Path::to_owned);
        Self {
            directory,
            filters: HashMap::new(),
            without: without.to_vec(),
        }
    }

    /// Reads the filter of a document.
    pub(super) fn add(&mut self, text: &Text<'_>) -> Result<Filter, ImportError> {
        let root = text.document.root_element();
        if !root.has_tag_name("filter") {
            let problem = format!(
                "<{}> is no <filter>; name the XML of a network filter",
                root.tag_name().name()
            );
            return Err(text.strange(root, problem));
        }
        let Some(name) = root.attribute("name").filter(|name| !name.is_empty()) else {
            return Err(text.strange(root, "the filter has no name; add name='NAME'"));
        };
        let mut filter = Filter {
            name: name.to_owned(),
            file: text.file.clone(),
            chain: root.attribute("chain").unwrap_or("root").to_owned(),
            priority: root
                .attribute("priority")
                .and_then(|word| word.parse().ok()),
            parts: Vec::new(),
        };
        for node in root.children().filter(Node::is_element) {
            match node.tag_name().name() {
                "rule" => filter.parts.push(Part::Rule(read_rule(text, node)?)),
                "filterref" => {
                    let name = node.attribute("filter");
                    let name = name
                        .ok_or_else(|| text.strange(node, "a <filterref> without filter='NAME'"))?;
                    filter.parts.push(Part::Reference {
                        line: text.line(node),
                        name: name.to_owned(),
                        parameters: parameters(node),
                    });
                }
                "uuid" => {}
                other => {
                    return Err(
                        text.strange(node, format!("<{other}> is nothing that a filter has"))
                    );
                }
            }
        }
        self.filters
            .insert(filter.name.clone(), Some(filter.clone()));
        Ok(filter)
    }

    /// The filter of that name, from beside the first.
    fn find(&mut self, name: &str) -> Result<Option<Filter>, ImportError> {
        if let Some(found) = self.filters.get(name) {
            return Ok(found.clone());
        }
        let is_plain = !name.contains(['/', '\0']) && !name.starts_with('.');
        let path = self.directory.join(format!("{name}.xml"));
        if !is_plain || !path.is_file() {
            self.filters.insert(name.to_owned(), None);
            return Ok(None);
        }
        let text = read(&path)?;
        let filter = self.add(&Text::parse(&path, &text)?)?;
        Ok(Some(filter))
    }

    /// Every rule of the filter and of those that it refers to.
    pub(super) fn flatten(
        &mut self,
        filter: &Filter,
        variables: &Variables,
        remarks: &mut Vec<Remark>,
    ) -> Result<Vec<Placed>, ImportError> {
        let mut walk = Walk {
            placed: Vec::new(),
            open: HashSet::new(),
            remarks,
        };
        walk.visit(self, filter, variables)?;
        Ok(walk.placed)
    }
}

/// A walk over the references of a filter.
struct Walk<'r> {
    placed: Vec<Placed>,
    /// Filters that are being visited, which may not come again.
    open: HashSet<String>,
    remarks: &'r mut Vec<Remark>,
}

impl Walk<'_> {
    fn visit(
        &mut self,
        library: &mut Library,
        filter: &Filter,
        variables: &Variables,
    ) -> Result<(), ImportError> {
        if self.open.len() >= MAX_DEPTH || !self.open.insert(filter.name.clone()) {
            return Err(ImportError::Strange {
                file: filter.file.clone(),
                line: 1,
                text: format!(
                    "filter {:?} refers to itself, or more than {MAX_DEPTH} deep; libvirt refuses that too",
                    filter.name
                ),
            });
        }
        let chain = filter
            .priority
            .unwrap_or_else(|| chain_priority(&filter.chain));
        for part in &filter.parts {
            match part {
                Part::Rule(rule) => {
                    // In the root chain, rules and chains are sorted together.
                    let chain = if filter.chain == "root" {
                        rule.priority
                    } else {
                        chain
                    };
                    self.place(
                        chain,
                        &filter.chain,
                        rule.priority,
                        variables,
                        What::Rule(rule.clone()),
                    );
                }
                Part::Reference {
                    line,
                    name,
                    parameters,
                } => {
                    let mut inner = variables.clone();
                    inner.extend(parameters.clone());
                    match library.find(name)? {
                        Some(found) => self.visit(library, &found, &inner)?,
                        None => {
                            let is_known = filters::NAMES.contains(&name.as_str());
                            if !is_known && !library.without.contains(name) {
                                return Err(ImportError::Missing {
                                    file: filter.file.clone(),
                                    line: *line,
                                    name: name.clone(),
                                });
                            }
                            self.ready_made(filter, *line, name, &inner);
                        }
                    }
                }
            }
            if self.placed.len() > MAX_RULES {
                return Err(ImportError::Strange {
                    file: filter.file.clone(),
                    line: 1,
                    text: format!("more than {MAX_RULES} rules; convert its parts one by one"),
                });
            }
        }
        self.open.remove(&filter.name);
        Ok(())
    }

    fn place(&mut self, chain: i32, name: &str, rule: i32, variables: &Variables, what: What) {
        let sequence = self.placed.len();
        self.placed.push(Placed {
            at: Position {
                chain,
                name: name.to_owned(),
                rule,
                sequence,
            },
            variables: variables.clone(),
            what,
        });
    }

    /// One of libvirt's own filters that has no file here.
    fn ready_made(&mut self, filter: &Filter, line: u32, name: &str, variables: &Variables) {
        let remark = |text: String| Remark {
            file: filter.file.clone(),
            line,
            text,
        };
        let values = |name: &str| variables.get(name).into_iter().flatten();
        let parameters = Parameters {
            gateways: values("GATEWAY_MAC")
                .filter_map(|mac| mac.parse().ok())
                .collect(),
            dhcp_servers: values("DHCPSERVER")
                .filter_map(|ip| ip.parse().ok())
                .collect(),
        };
        let Some(found) = filters::ready_made(name, &parameters) else {
            let text = if filters::NAMES.contains(&name) {
                // Those that let DHCP servers answer only accept; the other binds addresses, and drops.
                let effect = if name.ends_with("-server") {
                    "what it accepts may be dropped"
                } else {
                    "what it drops may pass"
                };
                format!(
                    "filter {name:?} needs a parameter that is not given: left out, so that {effect}; \
                     name the domain that gives it with --domain"
                )
            } else {
                format!(
                    "filter {name:?} is not here: left out, so that what it drops may pass, and what it accepts may be \
                     dropped; put {name}.xml beside this file"
                )
            };
            self.remarks.push(remark(text));
            return;
        };
        if found.guards_mac || found.guards_ip {
            let what = What::Guard {
                ip: found.guards_ip,
            };
            self.place(-800, "mac", RULE_PRIORITY, variables, what);
        }
        for (rules, is_outbound) in [(found.outbound, true), (found.inbound, false)] {
            for rule in rules.into_iter().flatten() {
                let (chain, name) = chain_of(&rule);
                let rule = Box::new(rule);
                self.place(
                    chain,
                    name,
                    RULE_PRIORITY,
                    variables,
                    What::Ready { is_outbound, rule },
                );
            }
        }
    }
}

/// In which chain libvirt's own filters have such a rule.
fn chain_of(rule: &Rule) -> (i32, &'static str) {
    use crate::policy::subject::Family;
    match rule.kind {
        Kind::Ip {
            family: Some(Family::V4),
            ..
        } => (chain_priority("ipv4"), "ipv4"),
        Kind::Ip {
            family: Some(Family::V6),
            ..
        } => (chain_priority("ipv6"), "ipv6"),
        Kind::EtherType(0x0806) => (chain_priority("arp"), "arp"),
        Kind::EtherType(0x8035) => (chain_priority("rarp"), "rarp"),
        Kind::Any if rule.from.is_empty() && rule.to.is_empty() => (1_000, "root"),
        _ => (RULE_PRIORITY, "root"),
    }
}

/// The kind of chain that a name stands for.
pub(super) fn chain_kind(name: &str) -> &'static str {
    let found = CHAINS.iter().find(|(kind, _)| {
        name.strip_prefix(kind)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    });
    found.map_or("", |(kind, _)| *kind)
}

fn chain_priority(name: &str) -> i32 {
    let kind = chain_kind(name);
    let found = CHAINS.iter().find(|(known, _)| *known == kind);
    found.map_or(0, |(_, priority)| *priority)
}

fn read_rule(text: &Text<'_>, node: Node<'_, '_>) -> Result<RawRule, ImportError> {
    let word = |name: &str| {
        let found = node.attribute(name).map(str::to_owned);
        found.ok_or_else(|| text.strange(node, format!("a <rule> without {name}")))
    };
    let priority = match node.attribute("priority") {
        None => RULE_PRIORITY,
        Some(digits) => digits
            .parse()
            .map_err(|_| text.strange(node, format!("priority='{digits}' is no number")))?,
    };
    let protocols = node.children().filter(Node::is_element).map(|node| {
        let attributes = node.attributes();
        let attributes =
            attributes.map(|found| (found.name().to_owned(), found.value().trim().to_owned()));
        (node.tag_name().name().to_owned(), attributes.collect())
    });
    Ok(RawRule {
        file: text.file.clone(),
        line: text.line(node),
        action: word("action")?,
        direction: word("direction")?,
        priority,
        is_stateless: matches!(node.attribute("statematch"), Some("false" | "0")),
        protocols: protocols.collect(),
    })
}

pub(super) fn parameters(node: Node<'_, '_>) -> Variables {
    let mut variables = Variables::new();
    for node in node
        .children()
        .filter(|node| node.has_tag_name("parameter"))
    {
        if let (Some(name), Some(value)) = (node.attribute("name"), node.attribute("value")) {
            variables
                .entry(name.to_owned())
                .or_default()
                .push(value.to_owned());
        }
    }
    variables
}
