//! `portcullis explain`: what a configuration does with a packet, step by step.

use super::args::ExplainArgs;
use super::summary::summary;
use super::{Failure, print};
use crate::daemon::{Explanation, Source, Trial};

pub(super) fn explain(args: &ExplainArgs) -> Result<(), Failure> {
    let (_, spec) = Source::read(Some(&args.file), crate::config::Overrides::default())?;
    let trial = Trial::new(spec)?;
    let port = |name: &String| {
        trial.port(name).ok_or_else(|| {
            let file = args.file.display();
            Failure::Which(format!("{file}: no port is called {name:?}"))
        })
    };
    let from = port(&args.from)?;
    let to = args.to.as_ref().map(port).transpose()?;
    let frame = trial.spec().packet(&args.packet, from, to)?;
    let explanation = trial.explain(from, to, &frame);
    if args.json {
        let text = serde_json::to_string_pretty(&explanation).unwrap_or_default();
        return print(&(text + "\n"));
    }
    let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    print(&format!("{}\n{}", summary(&frame, len), said(&explanation)))
}

fn said(explanation: &Explanation) -> String {
    let mut text = String::new();
    for step in &explanation.steps {
        text += &format!("  {:<14} {}\n", step.name, step.said);
    }
    let verdict = explanation.word();
    let end = match (&explanation.reason, explanation.destinations.as_slice()) {
        (Some(reason), _) => format!("{verdict}: {reason}"),
        (None, destinations) => format!("{verdict}: {}", destinations.join(", ")),
    };
    text + &end + "\n"
}
