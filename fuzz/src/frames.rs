//! Frames by template: a good frame, with the input's bytes laid over it.

use arbitrary::Arbitrary;

/// A beginning that parses.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Template {
    /// None: the bytes are the frame.
    Raw,
    /// IPv4 or IPv6 behind perhaps a tag, with TCP or UDP.
    Ip {
        v6: bool,
        udp: bool,
        tagged: bool,
        extension: Option<u8>,
    },
    /// ARP.
    Arp,
}

/// What an input changes of a template: xored over it.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Over<'a> {
    Nothing,
    /// One place.
    At(u8, [u8; 2]),
    /// From the beginning on, and longer than the template if need be.
    All(&'a [u8]),
}

impl Template {
    /// The frame: the template, changed, with `more` bytes of payload. `mend`: the IP length is set to what
    /// it is in the end.
    pub fn frame(self, over: Over<'_>, more: u16, mend: bool) -> Vec<u8> {
        let (at, bytes) = match &over {
            Over::Nothing => (0, [].as_slice()),
            Over::At(at, bytes) => (usize::from(*at), bytes.as_slice()),
            Over::All(bytes) => (0, *bytes),
        };
        let mut frame = self.bytes();
        if frame.len() < bytes.len() {
            frame.resize(bytes.len(), 0);
        }
        frame.resize(frame.len() + usize::from(more), 0x5a);
        for (byte, over) in frame.iter_mut().skip(at).zip(bytes) {
            *byte ^= over;
        }
        if mend {
            mend_length(&mut frame);
        }
        frame
    }

    fn bytes(self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        let Self::Ip {
            v6,
            udp,
            tagged,
            extension,
        } = self
        else {
            if matches!(self, Self::Arp) {
                frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
                frame.extend([0; 20]);
                return frame;
            }
            return Vec::new();
        };
        if tagged {
            frame.extend([0x81, 0, 0, 7]);
        }
        let number = if udp { 17 } else { 6 };
        if v6 {
            frame.extend([
                0x86,
                0xdd,
                0x60,
                0,
                0,
                0,
                0,
                0,
                extension.unwrap_or(number),
                64,
            ]);
            frame.extend([0xfd; 32]);
            if extension.is_some() {
                frame.extend([number, 0, 1, 4, 0, 0, 0, 0]);
            }
        } else {
            frame.extend([8, 0, 0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, number, 0, 0]);
            frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        }
        frame.extend([0x12, 0x34, 0x14, 0x51, 0, 0, 0, 1, 0, 0, 0, 0]);
        if !udp {
            frame.extend([0x50, 0x10, 0x20, 0, 0, 0, 0, 0]);
        }
        frame
    }
}

fn mend_length(frame: &mut [u8]) {
    let l3 = if frame.get(12..14) == Some(&[0x81, 0]) {
        18
    } else {
        14
    };
    let Some(len) = frame.len().checked_sub(l3) else {
        return;
    };
    let (at, len) = match frame.get(l3 - 2..l3) {
        Some([0x08, 0x00]) => (l3 + 2, len),
        Some([0x86, 0xdd]) => (l3 + 4, len.saturating_sub(40)),
        _ => return,
    };
    if let Some(field) = frame.get_mut(at..at + 2) {
        field.copy_from_slice(&(len as u16).to_be_bytes());
    }
}
