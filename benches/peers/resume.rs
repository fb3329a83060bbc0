//! How soon traffic goes on after a switch was killed and started again under its guests.

use std::time::{Duration, Instant};

use portcullis::guest::{Error, Guest};

use super::switches::{Kind, Ours, Switch};
use super::{Conditions, Failure, interrupted};

const MACS: [[u8; 6]; 2] = [[0x52, 0x54, 0, 0, 0, 1], [0x52, 0x54, 0, 0, 0, 2]];
const PATIENCE: Duration = Duration::from_secs(20);

/// Kills it, starts it, connects both guests again, and takes the time from there to the first frame from the one to the other.
pub(super) fn resume(conditions: &Conditions) -> Result<(), Failure> {
    let mut switch = Switch::start(Kind::Portcullis(Ours::Plain), 2, conditions.pinned)?;
    let mut guests = Vec::new();
    for (mac, port) in MACS.into_iter().zip(switch.ports()) {
        guests.push(Guest::builder().mac(mac).connect(port)?);
    }
    let [a, b] = guests.as_mut_slice() else {
        return Err("two guests were wanted".into());
    };
    until_heard(a, b)?;
    let mut waits = Vec::new();
    for _ in 0..conditions.rounds * 5 {
        switch.restart(conditions.pinned)?;
        a.reconnect()?;
        b.reconnect()?;
        let begun = Instant::now();
        until_heard(a, b)?;
        waits.push(begun.elapsed());
        while b.try_recv()?.is_some() {}
        interrupted()?;
    }
    waits.sort_unstable();
    let millis = |wait: Option<&Duration>| wait.map_or(0.0, |wait| wait.as_secs_f64() * 1e3);
    println!(
        "resume: the first frame came {:.2} ms after both guests were back, the median of {} restarts of a killed switch; {:.2} ms at \
         most\n",
        millis(waits.get(waits.len() / 2)),
        waits.len(),
        millis(waits.last())
    );
    Ok(())
}

/// Sends until one arrives.
fn until_heard(a: &mut Guest, b: &mut Guest) -> Result<(), Failure> {
    let [to, from] = [MACS[1], MACS[0]];
    let mut frame = [&to[..], &from, &[0x88, 0xb5]].concat();
    frame.resize(60, 0);
    let end = Instant::now() + PATIENCE;
    while b.try_recv()?.is_none() {
        match a.send(&frame) {
            Ok(()) | Err(Error::Full { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if Instant::now() > end {
            return Err("nothing arrives any more".into());
        }
    }
    Ok(())
}
