//! Rates with their units, and the limits that are made of them.

use super::Place;
use super::reader::Reader;
use crate::frame::MAX_FRAME;
use crate::policy::groups;
use crate::policy::spec::{ConnectionQuota, LimitSpec, Rate};

/// Bits of the longest frame: a bucket that holds less would never let it pass.
const LONGEST: u64 = MAX_FRAME as u64 * 8;
/// Frames that the longest segmented packet may stand for, at the smallest segments in use (536 bytes).
const MOST_SEGMENTS: u64 = 128;
/// Bursts of storm control may be as small as this.
const FEW: u64 = 16;
/// The largest rate, per second: 10 Tbit/s.
const MAX_RATE: u64 = 10_000_000_000_000;
/// A bucket holds what arrives in so many milliseconds, if nothing else is said.
const DEFAULT_BURST_MS: u32 = 100;
const MAX_BURST_MS: u64 = 10_000;
const MAX_CONNECTIONS: u32 = 1 << 20;

const BITS_RULE: &str = "write a rate such as \"100Mbit/s\", with a burst if you like (\"100Mbit/s burst 4Mbit\"), or \"none\"";
const FRAMES_RULE: &str = "write a rate such as \"500/s\" or \"50k/s\", with a burst if you like (\"500/s burst 50\"), or \"none\"";
const ADDRESSING_RULE: &str = "write packets a second, such as \"100/s\", or \"none\"";
const TIME_RULE: &str = "write a time from 1ms to 10s, such as \"50ms\"";

/// Packets about memberships that a guest may send when nothing is said: for each of its groups one in ten seconds or so.
const MEMBERSHIP: Wish = Wish {
    per_second: 100,
    burst: Some(200),
};
/// Groups that a guest may send to in a minute when nothing is said: with IPv6 each neighbour is one.
const GROUPS: u32 = 512;

/// What a rate counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Bits,
    Frames,
}

/// A rate as it was asked for; zero a second is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    per_second: u64,
    burst: Option<u64>,
}

impl Wish {
    /// The bucket; `least` is the smallest that is of use.
    fn bucket(self, burst_ms: u32, least: u64) -> Rate {
        let usual = self.per_second.saturating_mul(burst_ms.into()) / 1_000;
        Rate {
            per_second: self.per_second,
            burst: match self.per_second {
                0 => 0,
                _ => self.burst.unwrap_or_else(|| usual.max(least)),
            },
        }
    }
}

/// What a `limits` table says; `None` where it says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limits {
    send: Option<Wish>,
    send_frames: Option<Wish>,
    receive: Option<Wish>,
    receive_frames: Option<Wish>,
    broadcast: Option<Wish>,
    multicast: Option<Wish>,
    unknown: Option<Wish>,
    membership: Option<Wish>,
    groups: Option<u32>,
    burst_ms: Option<u32>,
}

impl Limits {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let remedy = "write limits = { send = \"100Mbit/s\" }, or a section [port.NAME.limits]";
        let Some(section) = reader.section("limits", remedy) else {
            return Self::default();
        };
        let mut reader = reader.within(section);
        let limits = Self {
            send: rate(&mut reader, "send", Unit::Bits),
            send_frames: rate(&mut reader, "send_frames", Unit::Frames),
            receive: rate(&mut reader, "receive", Unit::Bits),
            receive_frames: rate(&mut reader, "receive_frames", Unit::Frames),
            broadcast: rate(&mut reader, "broadcast", Unit::Frames),
            multicast: rate(&mut reader, "multicast", Unit::Frames),
            unknown: rate(&mut reader, "unknown", Unit::Frames),
            membership: rate(&mut reader, "membership", Unit::Frames),
            groups: reader
                .number("multicast_groups", 0..=groups::MOST)
                .map(|(most, _)| most),
            burst_ms: time(&mut reader, "burst"),
        };
        reader.finish();
        limits
    }

    /// What `below` says where this says nothing.
    pub(super) fn or(self, below: &Self) -> Self {
        Self {
            send: self.send.or(below.send),
            send_frames: self.send_frames.or(below.send_frames),
            receive: self.receive.or(below.receive),
            receive_frames: self.receive_frames.or(below.receive_frames),
            broadcast: self.broadcast.or(below.broadcast),
            multicast: self.multicast.or(below.multicast),
            unknown: self.unknown.or(below.unknown),
            membership: self.membership.or(below.membership),
            groups: self.groups.or(below.groups),
            burst_ms: self.burst_ms.or(below.burst_ms),
        }
    }

    /// The limits of a port. What is not said of multicast groups is generous for a guest, and nothing for an uplink.
    pub(super) fn spec(&self, uplink: bool) -> LimitSpec {
        let burst_ms = self.burst_ms.unwrap_or(DEFAULT_BURST_MS);
        let bucket = |wish: Option<Wish>, least| {
            wish.map_or(Rate::default(), |wish| wish.bucket(burst_ms, least))
        };
        LimitSpec {
            send_bits: bucket(self.send, LONGEST),
            send_frames: bucket(self.send_frames, MOST_SEGMENTS),
            receive_bits: bucket(self.receive, LONGEST),
            receive_frames: bucket(self.receive_frames, MOST_SEGMENTS),
            broadcast: bucket(self.broadcast, FEW),
            multicast: bucket(self.multicast, FEW),
            unknown: bucket(self.unknown, FEW),
            membership: bucket(self.membership.or((!uplink).then_some(MEMBERSHIP)), FEW),
            groups: self.groups.unwrap_or(if uplink { 0 } else { GROUPS }),
        }
    }
}

/// Bounds of a port's connections; `None` where nothing is said.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Connections {
    most: Option<u32>,
    half_open: Option<u32>,
    new: Option<Wish>,
}

impl Connections {
    /// Reads the three keys; `most` is the name of the first of them.
    pub(super) fn read(reader: &mut Reader<'_>, most: &'static str) -> Self {
        let number = |read: Option<(u32, Place)>| read.map(|(number, _)| number);
        Self {
            most: number(reader.number(most, 1..=MAX_CONNECTIONS)),
            half_open: number(reader.number("half_open", 1..=MAX_CONNECTIONS)),
            new: rate(reader, "new_connections", Unit::Frames),
        }
    }

    /// What `below` says where this says nothing.
    pub(super) fn or(self, below: &Self) -> Self {
        Self {
            most: self.most.or(below.most),
            half_open: self.half_open.or(below.half_open),
            new: self.new.or(below.new),
        }
    }

    /// The bounds, with those of `under` where nothing was said. No more can be half open than open.
    pub(super) fn quota(&self, under: &ConnectionQuota) -> ConnectionQuota {
        let connections = self.most.unwrap_or(under.connections);
        let half_open = self.half_open.unwrap_or(under.half_open);
        ConnectionQuota {
            connections,
            half_open: half_open.min(connections),
            new_per_second: self.new.map_or(under.new_per_second, |wish| {
                wish.bucket(DEFAULT_BURST_MS, FEW)
            }),
        }
    }
}

/// `addressing_rate`: packets a second; zero is no limit.
pub(super) fn addressing_rate(reader: &mut Reader<'_>) -> Option<u32> {
    let key = "addressing_rate";
    let (text, place) = reader.text(key, ADDRESSING_RULE)?;
    let whole = |wish: Wish| match wish.burst {
        None => u32::try_from(wish.per_second).ok(),
        Some(_) => None,
    };
    let found = parse_rate(&text, Unit::Frames).ok().and_then(whole);
    if found.is_none() {
        let problem = format!("{text:?} is no rate of whole packets");
        reader.fault(place, key, problem, ADDRESSING_RULE);
    }
    found
}

fn rate(reader: &mut Reader<'_>, key: &'static str, unit: Unit) -> Option<Wish> {
    let remedy = match unit {
        Unit::Bits => BITS_RULE,
        Unit::Frames => FRAMES_RULE,
    };
    let (text, place) = reader.text(key, remedy)?;
    match parse_rate(&text, unit) {
        Ok(wish) => Some(wish),
        Err(problem) => {
            reader.fault(place, key, problem, remedy);
            None
        }
    }
}

/// `100Mbit/s`, `50k/s burst 1k`, `none`.
fn parse_rate(text: &str, unit: Unit) -> Result<Wish, String> {
    if text == "none" {
        let (per_second, burst) = (0, None);
        return Ok(Wish { per_second, burst });
    }
    let (rate, burst) = match text.split_once(" burst ") {
        Some((rate, burst)) => (rate, Some(burst.trim())),
        None => (text, None),
    };
    let (suffix, of_burst) = match unit {
        Unit::Bits => ("bit/s", "bit"),
        Unit::Frames => ("/s", ""),
    };
    let amount = |text: &str, suffix: &str| {
        let amount = text.strip_suffix(suffix).and_then(parse_amount);
        amount.filter(|amount| (1..=MAX_RATE).contains(amount))
    };
    let per_second = amount(rate.trim(), suffix).ok_or_else(|| format!("{rate:?} is no rate"))?;
    let burst = match burst {
        None => None,
        Some(burst) => {
            let bits = amount(burst, of_burst).ok_or_else(|| format!("{burst:?} is no burst"))?;
            if unit == Unit::Bits && bits < LONGEST {
                return Err(format!(
                    "a burst of {burst} is less than the longest frame, {LONGEST}bit, which would never pass"
                ));
            }
            Some(bits)
        }
    };
    Ok(Wish { per_second, burst })
}

/// `100`, `2.5k`, `10M`, `1G`: a whole number in the end.
fn parse_amount(text: &str) -> Option<u64> {
    let (digits, scale) = match text.strip_suffix(['k', 'M', 'G']) {
        None => (text, 1u64),
        Some(digits) if text.ends_with('k') => (digits, 1_000),
        Some(digits) if text.ends_with('M') => (digits, 1_000_000),
        Some(digits) => (digits, 1_000_000_000),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |digits: &str| {
        (1..=12).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit())
    };
    if !is_number(whole) || !is_number(part) {
        return None;
    }
    let mut unit = scale;
    let mut total = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    for digit in part.bytes().map(|digit| u64::from(digit - b'0')) {
        if digit != 0 && unit % 10 != 0 {
            return None;
        }
        unit /= 10;
        total = total.checked_add(digit.checked_mul(unit)?)?;
    }
    Some(total)
}

/// `50ms` or `2s`, in milliseconds.
fn time(reader: &mut Reader<'_>, key: &'static str) -> Option<u32> {
    let (text, place) = reader.text(key, TIME_RULE)?;
    let millis = match text.strip_suffix("ms") {
        Some(digits) => parse_amount(digits),
        None => text
            .strip_suffix('s')
            .and_then(parse_amount)
            .and_then(|seconds| seconds.checked_mul(1_000)),
    };
    let millis = millis.filter(|millis| (1..=MAX_BURST_MS).contains(millis));
    if millis.is_none() {
        reader.fault(place, key, format!("{text:?} is no such time"), TIME_RULE);
    }
    millis.and_then(|millis| u32::try_from(millis).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(text: &str) -> Option<(u64, Option<u64>)> {
        let wish = parse_rate(text, Unit::Bits).ok()?;
        Some((wish.per_second, wish.burst))
    }

    fn frames(text: &str) -> Option<(u64, Option<u64>)> {
        let wish = parse_rate(text, Unit::Frames).ok()?;
        Some((wish.per_second, wish.burst))
    }

    #[test]
    fn rates_have_their_units() {
        assert_eq!(bits("100Mbit/s"), Some((100_000_000, None)));
        assert_eq!(bits("2.5Gbit/s"), Some((2_500_000_000, None)));
        assert_eq!(
            bits("64kbit/s burst 1Mbit"),
            Some((64_000, Some(1_000_000)))
        );
        assert_eq!(bits("1bit/s"), Some((1, None)));
        assert_eq!(frames("50k/s"), Some((50_000, None)));
        assert_eq!(frames("100/s burst 5"), Some((100, Some(5))));
        assert_eq!(frames("0.5k/s"), Some((500, None)));
        assert_eq!(bits("none"), Some((0, None)));
    }

    #[test]
    fn what_is_no_rate_is_none() {
        for text in [
            "",
            "100",
            "100M",
            "100Mb/s",
            "100Mbps",
            "Mbit/s",
            "-1bit/s",
            "0bit/s",
            "1.5bit/s",
            "1e3bit/s",
            "99999Gbit/s",
            "100Mbit/s burst",
            "100Mbit/s burst x",
            "100Mbit/s burst 1Mbit/s",
            "1 Mbit/s",
            "1.Mbit/s",
            ".5Mbit/s",
            "100/s",
        ] {
            assert_eq!(bits(text), None, "{text}");
        }
        for text in [
            "100",
            "100bit/s",
            "/s",
            "1.5/s",
            "k/s",
            "100/s burst 0",
            "100/m",
        ] {
            assert_eq!(frames(text), None, "{text}");
        }
    }

    #[test]
    fn a_bucket_holds_the_longest_frame() {
        let wish = parse_rate("1Mbit/s", Unit::Bits).unwrap();
        assert_eq!(wish.bucket(100, LONGEST).burst, LONGEST);
        assert_eq!(wish.bucket(1_000, LONGEST).burst, 1_000_000);
        assert!(parse_rate("1Mbit/s burst 100kbit", Unit::Bits).is_err());
        let fast = parse_rate("10Gbit/s", Unit::Bits).unwrap();
        assert_eq!(fast.bucket(DEFAULT_BURST_MS, LONGEST).burst, 1_000_000_000);
    }
}
