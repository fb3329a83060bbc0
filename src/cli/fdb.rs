//! `portcullis fdb`: the addresses of a running switch, page by page.

use std::path::Path;

use super::args::FdbArgs;
use super::{Failure, print};
use crate::control::{AddressReport, AskError, FdbPage, FdbQuery, Question, ask};

pub(super) fn fdb(args: &FdbArgs) -> Result<(), Failure> {
    let socket = args.target.socket()?;
    let mut query = FdbQuery {
        port: args.port.clone(),
        from: 0,
    };
    loop {
        let page = page(&socket, &query)?;
        if !args.json && query.from == 0 {
            print("ADDRESS            VLAN  AGE        PORT\n")?;
        }
        let lines = page.entries.iter().map(|entry| {
            if args.json {
                serde_json::to_string(entry).unwrap_or_default() + "\n"
            } else {
                row(entry)
            }
        });
        print(&lines.collect::<String>())?;
        match page.next {
            // A place behind the one before: a switch that says otherwise would keep us for ever.
            Some(next) if next > query.from => query.from = next,
            _ => return Ok(()),
        }
    }
}

fn page(socket: &Path, query: &FdbQuery) -> Result<FdbPage, Failure> {
    let value = ask(socket, &Question::Fdb(query.clone()))?;
    let strange = |source| AskError::Strange {
        path: socket.to_owned(),
        source,
    };
    Ok(serde_json::from_value(value).map_err(strange)?)
}

fn row(entry: &AddressReport) -> String {
    let vlan = entry.vlan.map_or("all".to_owned(), |vlan| vlan.to_string());
    let age = if entry.declared {
        "declared".to_owned()
    } else if entry.kept {
        "kept".to_owned()
    } else {
        format!("{} s", entry.age)
    };
    format!("{}  {vlan:<4}  {age:<9}  {}\n", entry.mac, entry.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_stands_under_its_title() {
        let entry = AddressReport {
            mac: "52:54:00:00:00:01".to_owned(),
            vlan: Some(20),
            port: "web".to_owned(),
            age: 17,
            declared: false,
            kept: false,
        };
        assert_eq!(row(&entry), "52:54:00:00:00:01  20    17 s       web\n");
        let entry = AddressReport {
            vlan: None,
            declared: true,
            ..entry
        };
        assert_eq!(row(&entry), "52:54:00:00:00:01  all   declared   web\n");
        let entry = AddressReport {
            declared: false,
            kept: true,
            ..entry
        };
        assert_eq!(row(&entry), "52:54:00:00:00:01  all   kept       web\n");
    }
}
