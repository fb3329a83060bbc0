//! Which ports are in quarantine: kept by name, in a small file, so that it survives a restart.
//!
//! The file ([`store`], `NAME.quarantine`) is there exactly while a port is in quarantine. One that is there and cannot be believed
//! keeps the switch from starting, since it may be all that stands between a bad guest and the others.
//!
//! A port may be put behind a list of the configuration instead of helpers. That is another gate, which has to be compiled: until it is in
//! force, and when a reload takes the list away, the port is alone.
//!
//! What could not be written is tried again every few seconds, and once more when the switch stops.
//!
//! A port that a reload takes away stays in the book: when one of its name comes back, it is in quarantine at once.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use super::plan::Live;
use super::source::{Refusal, read_trusted};
use super::store;
use crate::clock::Tick;
use crate::config::{Helper, SwitchSpec, is_ready_made};
use crate::control::{QuarantineReport, QuarantineRequest};
use crate::counters::{PortId, PortSet};
use crate::policy::quarantine::Quarantine;

/// The most helpers of one port, as in the configuration.
const MOST_HELPERS: usize = 64;
/// The longest state file: every port with as many helpers as a request can name.
const MAX_BYTES: u64 = 16 << 20;

/// Milliseconds after which a writing that failed is tried again.
const SPACING: u64 = 5000;

/// Why the file of the quarantine is not believed.
#[derive(Debug, thiserror::Error)]
#[error(
    "{}: {why}; it says which ports are in quarantine. Mend it, or remove it to start without a quarantine", file.display()
)]
pub struct StateError {
    file: PathBuf,
    why: String,
}

/// Ports that are behind a list, and which, by name.
pub(super) type Behind = BTreeMap<String, String>;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Wards {
    file: PathBuf,
    ports: BTreeMap<String, QuarantineReport>,
    /// How often it was changed, and how often it had been when it was written last.
    edits: u64,
    written: u64,
    /// When to try again: the last writing failed, and that has been said.
    again: Option<Tick>,
}

impl Wards {
    /// What the file says; nobody when there is none.
    pub(super) fn load(spec: &SwitchSpec) -> Result<Self, StateError> {
        Self::from_file(store::path(spec, "quarantine"))
    }

    /// Of these alone, for a trial: nothing is read or written.
    pub(super) fn on_trial(ports: impl IntoIterator<Item = QuarantineReport>) -> Self {
        let ports = ports.into_iter().map(|ward| (ward.port.clone(), ward));
        Self::new(PathBuf::new(), ports.collect())
    }

    fn new(file: PathBuf, ports: BTreeMap<String, QuarantineReport>) -> Self {
        Self {
            file,
            ports,
            edits: 0,
            written: 0,
            again: None,
        }
    }

    fn from_file(file: PathBuf) -> Result<Self, StateError> {
        let failed = |why: String| StateError {
            file: file.clone(),
            why,
        };
        let bytes = match read_trusted(&file, MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(Refusal::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self::new(file, BTreeMap::new()));
            }
            Err(Refusal::Unreadable(error)) => {
                return Err(failed(format!("cannot be read: {error}")));
            }
            Err(Refusal::Distrusted(problem, _)) => return Err(failed(problem)),
        };
        let ports: Vec<QuarantineReport> = serde_json::from_slice(&bytes)
            .map_err(|error| failed(format!("makes no sense: {error}")))?;
        let mut wards = BTreeMap::new();
        for ward in ports {
            // Nothing that `hold` makes: which of the two was meant, nobody knows.
            if ward.allow.is_some() && !ward.helpers.is_empty() {
                let name = ward.port;
                return Err(failed(format!("gives port {name:?} a list and helpers")));
            }
            if let Some(twice) = wards.insert(ward.port.clone(), ward) {
                return Err(failed(format!("names port {:?} twice", twice.port)));
            }
        }
        Ok(Self::new(file, wards))
    }

    /// All of them, by name.
    pub(super) fn reports(&self) -> Vec<QuarantineReport> {
        self.ports.values().cloned().collect()
    }

    /// One of them as it is told of: with whether its list is there still.
    pub(super) fn told(&self, live: &Live, name: &str) -> Option<QuarantineReport> {
        let mut ward = self.ports.get(name)?.clone();
        let list = ward.allow.as_ref();
        ward.list_is_gone = list.is_some_and(|list| !live.spec.lists.contains_key(list));
        Some(ward)
    }

    /// Leaves a line in the log for each of them, as another configuration finds it.
    pub(super) fn log(&self, live: &Live) {
        for name in self.ports.keys() {
            match self.told(live, name) {
                Some(ward) if ward.list_is_gone => {
                    tracing::warn!(port = name, "in quarantine {}", ward.said());
                }
                Some(ward) => tracing::info!(port = name, "in quarantine {}", ward.said()),
                None => {}
            }
        }
    }

    /// One of them.
    pub(super) fn get(&self, name: &str) -> Option<&QuarantineReport> {
        self.ports.get(name)
    }

    /// Which ports are to be behind which list.
    pub(super) fn behind(&self) -> Behind {
        let behind = self.ports.values();
        let behind = behind.filter_map(|ward| Some((ward.port.clone(), ward.allow.clone()?)));
        behind.collect()
    }

    /// The same in numbers, for a gate that was compiled with the ports of `in_force` behind lists. A port that is to be behind
    /// another, or behind one that the configuration does not have, is alone.
    pub(super) fn resolve(&self, live: &Live, in_force: &Behind) -> Quarantine {
        let known = live.ports().filter_map(|(port, id)| {
            let ward = self.ports.get(&port.name)?;
            let is_behind = ward.allow.as_ref().is_some_and(|list| {
                in_force.get(&port.name) == Some(list) && live.spec.lists.contains_key(list)
            });
            if is_behind {
                return None;
            }
            let helpers = ward.helpers.iter();
            let helpers = helpers.flat_map(|name| named(live, name));
            Some((
                id,
                PortSet::from_iter(helpers.filter(|helper| *helper != id)),
            ))
        });
        known.collect()
    }

    /// Puts a port aside, or changes its helpers.
    ///
    /// # Errors
    /// A name that nothing in the configuration has; nothing is changed then.
    pub(super) fn hold(
        &mut self,
        live: &Live,
        request: QuarantineRequest,
        by: &str,
    ) -> Result<(), String> {
        let QuarantineRequest {
            port,
            helpers,
            allow,
        } = request;
        if live.port(&port).is_none() {
            return Err(unknown_port(live, &port));
        }
        if helpers.len() > MOST_HELPERS {
            return Err(format!(
                "{} helpers; name {MOST_HELPERS} at most, or a group of them",
                helpers.len()
            ));
        }
        for helper in &helpers {
            let whom = Helper::of(helper);
            if whom.is_port(&port) {
                return Err(format!("port {port:?} cannot be its own helper"));
            }
            if named(live, helper).is_empty() {
                let (kind, name) = (whom.kind(), whom.name());
                return Err(format!("no {kind} is called {name:?}"));
            }
        }
        if let Some(list) = &allow {
            if !helpers.is_empty() {
                return Err("name a list or helpers, not both".to_owned());
            }
            if !live.spec.lists.contains_key(list) {
                return Err(if is_ready_made(list) {
                    format!(
                        "{list:?} is a ready-made list, and none of its own; name a list that stands as [acl.NAME]"
                    )
                } else {
                    format!("no list is called {list:?}; add [acl.{list}]")
                });
            }
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let since = now.map_or(0, |since| since.as_secs());
        let since = self.ports.get(&port).map_or(since, |ward| ward.since);
        let ward = QuarantineReport {
            port: port.clone(),
            helpers,
            allow,
            list_is_gone: false,
            since,
            by: by.to_owned(),
        };
        self.ports.insert(port, ward);
        self.edits = self.edits.wrapping_add(1);
        Ok(())
    }

    /// Lets a port out.
    ///
    /// # Errors
    /// It is not in quarantine.
    pub(super) fn release(&mut self, live: &Live, name: &str) -> Result<(), String> {
        match self.ports.remove(name) {
            Some(_) => {
                self.edits = self.edits.wrapping_add(1);
                Ok(())
            }
            None if live.port(name).is_none() => Err(unknown_port(live, name)),
            None => Err(format!("port {name:?} is not in quarantine")),
        }
    }

    /// What is to be written, for [`Saving::save`].
    pub(super) fn saving(&self) -> Saving {
        Saving {
            file: self.file.clone(),
            ports: self.reports(),
            edits: self.edits,
        }
    }

    /// What came of [`Saving::save`]: why the quarantine is not on disk, if it is not.
    pub(super) fn saved(&mut self, edits: u64, saved: io::Result<()>, now: Tick) -> Option<String> {
        let Err(error) = saved else {
            self.written = edits;
            self.again = None;
            return None;
        };
        let why = format!("{}: {error}", self.file.display());
        if self.again.replace(now.after_millis(SPACING)).is_none() {
            tracing::error!("the quarantine would not survive a restart: {why}; it is tried again");
        }
        Some(why)
    }

    /// Whether it is to be tried again to write it.
    pub(super) fn is_due(&self, now: Tick) -> bool {
        self.again.is_some_and(|again| again <= now)
    }

    /// Writes it a last time, if that is wanting.
    pub(super) fn save_last(&self) {
        if self.edits == self.written {
            return;
        }
        if let Err(error) = self.saving().save() {
            let file = self.file.display();
            tracing::error!("the quarantine does not survive this restart: {file}: {error}");
        }
    }
}

/// The book as it is to be on disk.
#[derive(Debug)]
pub(super) struct Saving {
    file: PathBuf,
    ports: Vec<QuarantineReport>,
    /// How often the book had been changed.
    pub(super) edits: u64,
}

impl Saving {
    /// Puts it in its place. Waits for the disk: not for the attendant.
    pub(super) fn save(&self) -> io::Result<()> {
        if self.ports.is_empty() {
            return store::replace(&self.file, None);
        }
        let mut text = serde_json::to_vec_pretty(&self.ports)?;
        text.push(b'\n');
        store::replace(&self.file, Some(&text))
    }
}

/// The ports that a helper stands for: the port of that name, or those of the group.
fn named(live: &Live, helper: &str) -> Vec<PortId> {
    let helper = Helper::of(helper);
    let name = helper.name();
    let port = match helper {
        Helper::Group(_) => None,
        Helper::Port(_) | Helper::Either(_) => live.port(name),
    };
    if port.is_some() || matches!(helper, Helper::Port(_)) {
        return port.into_iter().collect();
    }
    let members = live
        .ports()
        .filter(|(port, _)| port.groups.iter().any(|group| group == name));
    members.map(|(_, id)| id).collect()
}

/// What to say of a name that no port has.
pub(super) fn unknown_port(live: &Live, name: &str) -> String {
    let names: Vec<&str> = live
        .ports()
        .map(|(port, _)| port.name.as_str())
        .take(16)
        .collect();
    let more = if live.ids.len() > names.len() {
        ", ..."
    } else {
        ""
    };
    format!(
        "no port is called {name:?}; there are {}{more}",
        names.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::config::{Overrides, from_text};
    use crate::daemon::source::Source;

    fn live(ports: &[&str]) -> Live {
        let overrides = Overrides {
            ports: ports.iter().map(|port| (*port).to_owned()).collect(),
            ..Overrides::default()
        };
        let spec = from_text(None, "", &overrides).unwrap();
        Live::first(Source::default(), spec)
    }

    fn request(port: &str, helpers: &[&str]) -> QuarantineRequest {
        QuarantineRequest {
            port: port.to_owned(),
            helpers: helpers.iter().map(|name| (*name).to_owned()).collect(),
            allow: None,
        }
    }

    fn empty(directory: &Path) -> Wards {
        Wards::from_file(directory.join("lan.quarantine")).unwrap()
    }

    #[test]
    fn what_is_saved_is_what_is_loaded_and_nothing_is_left_of_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let live = live(&["a=/a", "b=/b,group=g", "c=/c,group=g"]);
        let mut wards = empty(directory.path());
        wards.hold(&live, request("a", &["g"]), "operator").unwrap();
        wards.saving().save().unwrap();
        let again = empty(directory.path());
        assert_eq!(again.reports(), wards.reports());
        let id = |index| PortId::new(index).unwrap();
        let quarantine = again.resolve(&live, &Behind::new());
        assert!(!quarantine.separates(id(0), id(1)) && !quarantine.separates(id(2), id(0)));
        assert!(quarantine.holds(id(0)) && !quarantine.holds(id(1)));
        wards.release(&live, "a").unwrap();
        wards.saving().save().unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn names_that_nothing_has_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let live = live(&["a=/a", "b=/b"]);
        let mut wards = empty(directory.path());
        let mut hold =
            |port, helpers: &[&str]| wards.hold(&live, request(port, helpers), "operator");
        assert_eq!(
            hold("x", &[]).unwrap_err(),
            "no port is called \"x\"; there are a, b"
        );
        assert_eq!(
            hold("a", &["b", "y"]).unwrap_err(),
            "no port or group is called \"y\""
        );
        assert_eq!(
            hold("a", &["b", "a"]).unwrap_err(),
            "port \"a\" cannot be its own helper"
        );
        assert_eq!(
            hold("a", &["b"; 65]).unwrap_err(),
            "65 helpers; name 64 at most, or a group of them"
        );
        assert_eq!(wards.reports(), []);
        assert_eq!(
            wards.release(&live, "a").unwrap_err(),
            "port \"a\" is not in quarantine"
        );
    }

    #[test]
    fn a_helper_is_a_port_or_a_group_or_whichever_has_the_name() {
        let directory = tempfile::tempdir().unwrap();
        let live = live(&["a=/a", "both=/b", "c=/c,group=both", "d=/d,group=g"]);
        let mut wards = empty(directory.path());
        let mut reaches = |helper: &str| -> Result<Vec<u16>, String> {
            wards.hold(&live, request("a", &[helper]), "operator")?;
            let quarantine = wards.resolve(&live, &Behind::new());
            let id = |index| PortId::new(index).unwrap();
            let others = (1..4).filter(|other| !quarantine.separates(id(0), id(*other)));
            Ok(others.collect())
        };
        let found = [
            ("port:both", Ok(vec![1])),
            ("group:both", Ok(vec![2])),
            // The port comes first.
            ("both", Ok(vec![1])),
            ("g", Ok(vec![3])),
            ("group:g", Ok(vec![3])),
            ("port:g", Err("no port is called \"g\"".to_owned())),
            ("group:c", Err("no group is called \"c\"".to_owned())),
            ("c:c", Err("no port or group is called \"c:c\"".to_owned())),
            (
                "port:a",
                Err("port \"a\" cannot be its own helper".to_owned()),
            ),
        ];
        for (helper, expected) in found {
            assert_eq!(reaches(helper), expected, "{helper}");
        }
    }

    #[test]
    fn a_port_behind_a_list_is_alone_until_the_list_is_in_force() {
        let directory = tempfile::tempdir().unwrap();
        let text =
            "[acl.sick]\noutbound = []\n[port.a]\nsocket = \"/a\"\n[port.b]\nsocket = \"/b\"\n";
        let spec = |text| from_text(None, text, &Overrides::default()).unwrap();
        let listed = Live::first(Source::default(), spec(text));
        let mut wards = empty(directory.path());
        let to = |list: &str| QuarantineRequest {
            allow: Some(list.to_owned()),
            ..request("a", &[])
        };
        let error = wards.hold(&listed, to("well"), "operator").unwrap_err();
        assert_eq!(error, "no list is called \"well\"; add [acl.well]");
        wards.hold(&listed, to("sick"), "operator").unwrap();
        wards.saving().save().unwrap();
        let wards = empty(directory.path());
        let a = PortId::FIRST;
        assert!(wards.resolve(&listed, &Behind::new()).silences(a));
        let other = Behind::from([("a".to_owned(), "other".to_owned())]);
        assert!(wards.resolve(&listed, &other).silences(a));
        assert!(!wards.resolve(&listed, &wards.behind()).holds(a));
        // A list that is there no more allows nothing.
        assert!(wards.resolve(&live(&["a=/a"]), &wards.behind()).silences(a));
    }

    #[test]
    fn a_port_that_comes_back_is_in_quarantine_still() {
        let directory = tempfile::tempdir().unwrap();
        let mut wards = empty(directory.path());
        wards
            .hold(&live(&["a=/a", "b=/b"]), request("b", &[]), "operator")
            .unwrap();
        assert!(wards.resolve(&live(&["a=/a"]), &Behind::new()).is_empty());
        let back = wards.resolve(&live(&["c=/c", "b=/b"]), &Behind::new());
        assert!(back.holds(PortId::new(1).unwrap()));
    }

    #[test]
    fn a_file_that_cannot_be_believed_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("lan.quarantine");
        fs::write(&file, "[{\"port\":\"a\"").unwrap();
        let error = Wards::from_file(file.clone()).unwrap_err().to_string();
        assert!(
            error.contains("makes no sense") && error.contains("Mend it"),
            "{error}"
        );
        use std::os::unix::fs::PermissionsExt as _;
        fs::write(&file, "[]").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        let error = Wards::from_file(file.clone()).unwrap_err().to_string();
        assert!(error.contains("can be written to by others"), "{error}");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let ward = |rest: &str| format!("{{\"port\":\"a\",\"since\":0,\"by\":\"x\",{rest}}}");
        let alone = ward("\"helpers\":[]");
        for (wards, expected) in [
            (format!("[{alone},{alone}]"), "names port \"a\" twice"),
            (
                format!("[{}]", ward("\"helpers\":[\"b\"],\"allow\":\"l\"")),
                "gives port \"a\" a list and helpers",
            ),
        ] {
            fs::write(&file, wards).unwrap();
            let error = Wards::from_file(file.clone()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn o_6_a_directory_that_takes_nothing_is_an_error_and_the_old_book_stays() {
        let directory = tempfile::tempdir().unwrap();
        let mut wards = empty(directory.path());
        let live = live(&["a=/a"]);
        wards.hold(&live, request("a", &[]), "operator").unwrap();
        wards.saving().save().unwrap();
        let saving = Saving {
            file: directory.path().join("missing/lan.quarantine"),
            ..wards.saving()
        };
        saving.save().unwrap_err();
        assert_eq!(empty(directory.path()).reports(), wards.reports());
    }
}
