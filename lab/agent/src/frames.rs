//! Raw frames through AF_PACKET sockets, with the vnet header where offloads are the point.

use std::io::{Error, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::{Outcome, number, option, unhex};

/// `struct virtio_net_hdr`, the form that PACKET_VNET_HDR takes and gives.
const VNET_HEADER: usize = 10;
const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

pub fn send(interface: &str, hex: &str, options: &[&str]) -> Outcome {
    let socket = open(interface, false)?;
    repeat(&socket, &unhex(hex)?, options)
}

/// The frame with a vnet header in front of it, as a program that offloads to its card sends it.
pub fn offload(interface: &str, hex: &str, options: &[&str]) -> Outcome {
    let socket = open(interface, true)?;
    let mut bytes = vec![
        option(options, "flags", 0_u8)?,
        option(options, "gso", 0_u8)?,
    ];
    for name in ["hdr-len", "gso-size", "start", "offset"] {
        bytes.extend_from_slice(&option(options, name, 0_u16)?.to_le_bytes());
    }
    bytes.extend_from_slice(&unhex(hex)?);
    repeat(&socket, &bytes, options)
}

fn repeat(socket: &OwnedFd, bytes: &[u8], options: &[&str]) -> Outcome {
    let gap: u64 = option(options, "gap-us", 0)?;
    for _ in 0..option(options, "count", 1_u64)? {
        // SAFETY: the pointer and the length are those of a live slice.
        let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        if sent < 0 {
            return Err(format!("send: {}", Error::last_os_error()));
        }
        if gap > 0 {
            std::thread::sleep(Duration::from_micros(gap));
        }
    }
    Ok(())
}

/// Counts received frames that match, and writes them to a file: one line each, the length, the
/// vnet header and the first bytes in hexadecimal. The last line of the file is never half a line.
/// `ready` stands on the first line once the socket listens.
pub fn watch(interface: &str, options: &[&str]) -> Outcome {
    let path: String = option(options, "file", String::new())?;
    let snap: usize = option(options, "snap", 128)?;
    let keep: usize = option(options, "keep", 1000)?;
    let patterns = patterns(options)?;
    let mut file = std::fs::File::create(&path).map_err(|why| format!("{path}: {why}"))?;
    let socket = open(interface, true)?;
    file.write_all(b"ready\n").map_err(|why| why.to_string())?;
    let mut buffer = vec![0_u8; 1 << 17];
    let mut kept = 0;
    while kept < keep {
        // SAFETY: the pointer and the length are those of a live, exclusively borrowed buffer.
        let got = unsafe {
            libc::recv(
                socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
            )
        };
        let got = usize::try_from(got).map_err(|_| format!("recv: {}", Error::last_os_error()))?;
        if got < VNET_HEADER {
            continue;
        }
        let (header, frame) = buffer[..got].split_at(VNET_HEADER);
        let matches = |(at, bytes): &(usize, Vec<u8>)| {
            frame
                .get(*at..*at + bytes.len())
                .is_some_and(|there| there == bytes.as_slice())
        };
        if !patterns.iter().all(matches) {
            continue;
        }
        kept += 1;
        let line = format!(
            "{} {} {}\n",
            frame.len(),
            hex(header),
            hex(&frame[..frame.len().min(snap)])
        );
        file.write_all(line.as_bytes())
            .map_err(|why| why.to_string())?;
    }
    Ok(())
}

fn patterns(options: &[&str]) -> Result<Vec<(usize, Vec<u8>)>, String> {
    let given = options
        .iter()
        .filter_map(|word| word.strip_prefix("match="));
    given
        .map(|text| {
            let (at, bytes) = text
                .split_once(':')
                .ok_or_else(|| format!("match={text}: no colon"))?;
            Ok((number(at)?, unhex(bytes)?))
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn open(interface: &str, vnet: bool) -> Result<OwnedFd, String> {
    let path = format!("/sys/class/net/{interface}/ifindex");
    let text = std::fs::read_to_string(&path).map_err(|why| format!("{path}: {why}"))?;
    let index: i32 = number(text.trim())?;
    let every = u16::try_from(libc::ETH_P_ALL).unwrap_or(3).to_be();
    // SAFETY: a plain system call; the descriptor it returns is owned by nobody else.
    let socket = unsafe {
        let raw = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(every));
        if raw < 0 {
            return Err(format!("socket: {}", Error::last_os_error()));
        }
        OwnedFd::from_raw_fd(raw)
    };
    set(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20)?;
    if vnet {
        set(&socket, libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
    }
    // SAFETY: `sockaddr_ll` is plain data and its size is the one given.
    let bound = unsafe {
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = every;
        address.sll_ifindex = index;
        let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size)
    };
    if bound != 0 {
        return Err(format!("bind {interface}: {}", Error::last_os_error()));
    }
    Ok(socket)
}

fn set(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> Outcome {
    // SAFETY: the option's value is a live integer of the size given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done != 0 {
        return Err(format!("setsockopt {name}: {}", Error::last_os_error()));
    }
    Ok(())
}
