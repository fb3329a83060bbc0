//! Files of captured frames: read for `explain`, written for `drops`.
//!
//! Read are pcap and pcapng, by a crate. Written is pcapng (draft-ietf-opsawg-pcapng), three kinds of blocks: an interface for each
//! port, and with each frame a comment that says why it was dropped.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use pcap_parser::traits::PcapNGPacketBlock;
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};

/// The longest block that is read: a frame has 64 KiB at most.
const BUFFER: usize = 1 << 20;
/// Interfaces of one file.
const MAX_INTERFACES: usize = 65_536;

/// Why a file of frames was not read.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file.
    #[error("cannot read {}", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What it says.
    #[error("{}: {why}, after {frames} frames; a pcap or pcapng file of Ethernet frames is wanted", file.display())]
    Malformed {
        /// Which.
        file: PathBuf,
        /// Frames that were read before.
        frames: u64,
        /// Why.
        why: String,
    },
}

/// A frame out of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Captured<'a> {
    /// Its bytes, as many as were captured.
    pub(super) bytes: &'a [u8],
    /// Its length on the wire.
    pub(super) len: u32,
}

/// Gives each frame of a file to `look`, one after the other; only one is held in memory.
///
/// # Errors
/// The file is none of frames, is cut short, or `look` failed.
pub(super) fn read<E: From<CaptureError>>(
    file: &Path,
    mut look: impl FnMut(Captured<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let unreadable = |source| CaptureError::Unreadable {
        file: file.to_owned(),
        source,
    };
    let mut frames = 0u64;
    let malformed = |frames, why: String| CaptureError::Malformed {
        file: file.to_owned(),
        frames,
        why,
    };
    let opened = File::open(file).map_err(unreadable)?;
    let reader = create_reader(BUFFER, opened);
    let mut reader = reader.map_err(|error| malformed(0, why(&error)))?;
    let mut links = Vec::new();
    loop {
        let (len, block) = match reader.next() {
            Ok(found) => found,
            Err(PcapError::Eof) => return Ok(()),
            // At the end of the file it says so instead.
            Err(PcapError::Incomplete(_)) => {
                let had = reader.data().len();
                let refilled = reader.refill().map_err(|error| why(&error));
                refilled.map_err(|why| malformed(frames, why))?;
                if reader.data().len() == had && !reader.reader_exhausted() {
                    let why = why::<&[u8]>(&PcapError::BufferTooSmall);
                    return Err(malformed(frames, why).into());
                }
                continue;
            }
            Err(error) => return Err(malformed(frames, why(&error)).into()),
        };
        let captured = frame_of(&block, &mut links).map_err(|why| malformed(frames, why))?;
        if let Some(captured) = captured {
            look(captured)?;
            frames += 1;
        }
        reader.consume(len);
    }
}

/// The frame of a block, if it is one; `links` are the kinds of the interfaces so far.
fn frame_of<'a>(
    block: &'a PcapBlockOwned<'_>,
    links: &mut Vec<Linktype>,
) -> Result<Option<Captured<'a>>, String> {
    let (interface, bytes, len) = match block {
        PcapBlockOwned::LegacyHeader(header) => {
            // The upper half says how long the frame check sequences are, if there are any.
            links.push(Linktype(header.network.0 & 0xffff));
            return Ok(None);
        }
        PcapBlockOwned::NG(Block::SectionHeader(_)) => {
            links.clear();
            return Ok(None);
        }
        PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
            if links.len() >= MAX_INTERFACES {
                return Err("more than 65536 interfaces".to_owned());
            }
            links.push(interface.linktype);
            return Ok(None);
        }
        PcapBlockOwned::Legacy(packet) => (0, packet.data, packet.origlen),
        PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
            (packet.if_id, packet.packet_data(), packet.origlen)
        }
        PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
            (0, packet.packet_data(), packet.origlen)
        }
        PcapBlockOwned::NG(_) => return Ok(None),
    };
    let link = usize::try_from(interface).ok().and_then(|at| links.get(at));
    match link {
        Some(&Linktype::ETHERNET) => Ok(Some(Captured { bytes, len })),
        Some(other) => Err(format!(
            "frames of link type {}, which is not Ethernet",
            other.0
        )),
        None => Err(format!(
            "a frame of interface {interface}, which is not described"
        )),
    }
}

fn why<I>(error: &PcapError<I>) -> String {
    match error {
        PcapError::Eof | PcapError::UnexpectedEof | PcapError::Incomplete(_) => "cut short",
        PcapError::BufferTooSmall => "a block longer than 1 MiB",
        PcapError::ReadError => "cannot be read",
        PcapError::HeaderNotRecognized => "neither pcap nor pcapng",
        PcapError::NomError(..) | PcapError::OwnedNomError(..) => "makes no sense",
    }
    .to_owned()
}

/// Writes a pcapng file: [`Writer::interface`] begins a port, and what follows is its.
#[derive(Debug)]
pub(super) struct Writer<W> {
    to: W,
    interfaces: u32,
}

/// A frame to be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Note<'a> {
    /// Milliseconds since the epoch of Unix.
    pub(super) millis: u64,
    /// Its first bytes.
    pub(super) bytes: &'a [u8],
    /// Its length on the wire.
    pub(super) len: u32,
    /// For people.
    pub(super) comment: &'a str,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    pub(super) fn new(to: W) -> io::Result<Self> {
        let mut writer = Self { to, interfaces: 0 };
        let mut body = Vec::new();
        body.extend(0x1a2b_3c4d_u32.to_le_bytes());
        // Version 1.0, and a section of unknown length.
        body.extend([1, 0, 0, 0]);
        body.extend([0xff; 8]);
        option(
            &mut body,
            4,
            concat!("portcullis ", env!("CARGO_PKG_VERSION")).as_bytes(),
        );
        option(&mut body, 0, &[]);
        writer.block(0x0a0d_0d0a, &body)?;
        Ok(writer)
    }

    /// Begins an interface, whose times are in milliseconds.
    pub(super) fn interface(&mut self, name: &str) -> io::Result<()> {
        let mut body = Vec::new();
        // Ethernet, and no bound for what is captured.
        body.extend([1, 0, 0, 0, 0, 0, 0, 0]);
        option(&mut body, 2, name.as_bytes());
        option(&mut body, 9, &[3]);
        option(&mut body, 0, &[]);
        self.interfaces += 1;
        self.block(1, &body)
    }

    /// A frame of the interface that was begun last.
    pub(super) fn frame(&mut self, note: &Note<'_>) -> io::Result<()> {
        let mut body = Vec::new();
        let captured = u32::try_from(note.bytes.len()).unwrap_or(u32::MAX);
        let [high, low] = [note.millis >> 32, note.millis & u64::from(u32::MAX)];
        let interface = self.interfaces.saturating_sub(1);
        for number in [
            interface.into(),
            high,
            low,
            captured.into(),
            note.len.into(),
        ] {
            body.extend(u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
        }
        padded(&mut body, note.bytes);
        option(&mut body, 1, note.comment.as_bytes());
        option(&mut body, 0, &[]);
        self.block(6, &body)
    }

    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let len = u32::try_from(body.len() + 12)
            .unwrap_or(u32::MAX)
            .to_le_bytes();
        for part in [&kind.to_le_bytes()[..], &len, body, &len] {
            self.to.write_all(part)?;
        }
        Ok(())
    }

    /// Everything is written.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = value.get(..usize::from(u16::MAX)).unwrap_or(value);
    let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
    body.extend(code.to_le_bytes());
    body.extend(len.to_le_bytes());
    padded(body, value);
}

/// To a multiple of four bytes.
fn padded(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend(bytes);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    type Frames = Vec<(Vec<u8>, u32)>;

    fn frames(file: &[u8]) -> Result<Frames, CaptureError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, file).unwrap();
        let mut found = Vec::new();
        read(&path, |captured| {
            found.push((captured.bytes.to_vec(), captured.len));
            Ok::<_, CaptureError>(())
        })?;
        Ok(found)
    }

    fn written() -> Vec<u8> {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file).unwrap();
        for (name, sizes) in [("web", [14, 60]), ("db", [61, 256])] {
            writer.interface(name).unwrap();
            for size in sizes {
                let note = Note {
                    millis: 1_764_374_400_123,
                    bytes: &vec![7; size],
                    len: 1514,
                    comment: "denied-inbound to db, lan.toml:12 (admin)",
                };
                writer.frame(&note).unwrap();
            }
        }
        writer.finish().unwrap();
        file
    }

    #[test]
    fn what_is_written_is_read_with_its_comment_and_time() {
        let file = written();
        let sizes = [14, 60, 61, 256];
        let expected: Frames = sizes.map(|size| (vec![7; size], 1514)).to_vec();
        assert_eq!(frames(&file).unwrap(), expected);
        let mut reader = create_reader(BUFFER, file.as_slice()).unwrap();
        let (mut names, mut packets) = (Vec::new(), 0);
        loop {
            let (len, block) = match reader.next() {
                Ok(found) => found,
                Err(PcapError::Eof) => break,
                Err(PcapError::Incomplete(_)) => {
                    reader.refill().unwrap();
                    continue;
                }
                Err(error) => panic!("{error:?}"),
            };
            match block {
                PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                    assert_eq!(interface.if_tsresol, 3);
                    let name = interface.options.iter().find(|option| option.code.0 == 2);
                    let name = name.unwrap();
                    names.push(name.value[..usize::from(name.len)].to_vec());
                }
                PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                    assert_eq!(packet.if_id, packets / 2);
                    assert_eq!(packet.decode_ts(0, 1000), (1_764_374_400, 123));
                    let comment = packet.options.iter().find(|option| option.code.0 == 1);
                    assert!(comment.unwrap().value.starts_with(b"denied-inbound to db"));
                    packets += 1;
                }
                _ => {}
            }
            reader.consume(len);
        }
        assert_eq!((names, packets), (vec![b"web".to_vec(), b"db".to_vec()], 4));
    }

    /// A pcap file with one frame (IETF draft-ietf-opsawg-pcap), of that link type.
    fn pcap(link: u8) -> Vec<u8> {
        let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        file.extend([0, 0, 4, 0, link, 0, 0, 0]);
        file.extend([0, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0, 60, 0, 0, 0]);
        file.extend([9; 20]);
        file
    }

    #[test]
    fn a_pcap_file_is_read_and_what_is_none_is_refused() {
        assert_eq!(frames(&pcap(1)).unwrap(), [(vec![9; 20], 60)]);
        // Of a capture that says how long its frame check sequences are.
        let mut with_length = pcap(1);
        with_length[23] = 0x10;
        assert_eq!(frames(&with_length).unwrap(), [(vec![9; 20], 60)]);
        for (file, expected) in [
            (
                pcap(113),
                "frames of link type 113, which is not Ethernet, after 0 frames",
            ),
            (
                b"no frames at all, but some text".to_vec(),
                "neither pcap nor pcapng",
            ),
            (Vec::new(), "cut short"),
            (pcap(1)[..50].to_vec(), "cut short"),
            (
                written()[..written().len() - 1].to_vec(),
                "cut short, after 3 frames",
            ),
        ] {
            let error = frames(&file).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn no_file_makes_it_panic_or_go_on_for_ever() {
        let whole = [written(), pcap(1)];
        for file in &whole {
            for at in 0..file.len() {
                for byte in [0, 1, 0x7f, 0xff] {
                    let mut file = file.clone();
                    file[at] = byte;
                    let _ = frames(&file);
                }
                let _ = frames(&file[..at]);
            }
        }
    }
}
