//! Bulk transfers whose receivers check every byte by themselves.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::{Outcome, number, option};

/// The endless stream that a seed stands for (a xorshift generator, eight bytes a step).
struct Pattern(u64);

impl Pattern {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            let word = self.0.to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// Writes move whole steps of the pattern, so that both sides stay in step however TCP cuts them.
const STEP: usize = 1 << 16;

/// Takes `conns` connections, one after the other; each opens with its length and seed. Prints
/// `ok BYTES` for each that arrived whole and right, an error otherwise.
pub fn tcp_serve(port: &str, options: &[&str]) -> Outcome {
    let listener = TcpListener::bind(("::", number(port)?))
        .or_else(|_| TcpListener::bind(("0.0.0.0", number(port).unwrap_or(0))))
        .map_err(|why| format!("bind {port}: {why}"))?;
    for _ in 0..option(options, "conns", 1_u32)? {
        let (mut peer, _) = listener.accept().map_err(|why| format!("accept: {why}"))?;
        let mut opening = [0; 16];
        peer.read_exact(&mut opening)
            .map_err(|why| format!("opening: {why}"))?;
        let (length, seed) = opening.split_at(8);
        let length = u64::from_le_bytes(length.try_into().unwrap_or_default());
        let seed = u64::from_le_bytes(seed.try_into().unwrap_or_default());
        receive(&mut peer, length, seed)?;
        peer.write_all(b"k")
            .map_err(|why| format!("answer: {why}"))?;
        println!("ok {length}");
    }
    Ok(())
}

fn receive(peer: &mut TcpStream, length: u64, seed: u64) -> Outcome {
    let mut pattern = Pattern::new(seed);
    let (mut got, mut expected) = (vec![0; STEP], vec![0; STEP]);
    let mut left = length;
    while left > 0 {
        let step = usize::try_from(left).unwrap_or(STEP).min(STEP);
        let at = length - left;
        peer.read_exact(&mut got[..step])
            .map_err(|why| format!("after {at} bytes: {why}"))?;
        pattern.fill(&mut expected[..step]);
        if got[..step] != expected[..step] {
            return Err(format!("corrupted within {STEP} bytes of {at}"));
        }
        left -= step as u64;
    }
    Ok(())
}

pub fn tcp_push(address: &str, port: &str, bytes: &str, seed: &str) -> Outcome {
    let (length, seed): (u64, u64) = (number(bytes)?, number(seed)?);
    let mut peer =
        TcpStream::connect((address, number(port)?)).map_err(|why| format!("connect: {why}"))?;
    let mut opening = length.to_le_bytes().to_vec();
    opening.extend_from_slice(&seed.to_le_bytes());
    peer.write_all(&opening)
        .map_err(|why| format!("opening: {why}"))?;
    let mut pattern = Pattern::new(seed);
    let mut buffer = vec![0; STEP];
    let mut left = length;
    while left > 0 {
        let step = usize::try_from(left).unwrap_or(STEP).min(STEP);
        pattern.fill(&mut buffer[..step]);
        peer.write_all(&buffer[..step])
            .map_err(|why| format!("{left} bytes left: {why}"))?;
        left -= step as u64;
    }
    let mut answer = [0; 1];
    peer.read_exact(&mut answer)
        .map_err(|why| format!("the receiver gave up: {why}"))?;
    println!("ok {length}");
    Ok(())
}

/// Datagrams: eight bytes of number, then the pattern of that number. Keeps a file with
/// `received R duplicates D corrupted C`, current after every datagram.
pub fn udp_serve(port: &str, options: &[&str]) -> Outcome {
    let path: String = option(options, "file", "/tmp/udp".to_owned())?;
    let socket =
        UdpSocket::bind(("0.0.0.0", number(port)?)).map_err(|why| format!("bind: {why}"))?;
    let (mut seen, mut duplicates, mut corrupted) = (HashSet::new(), 0_u64, 0_u64);
    let mut buffer = vec![0; 1 << 16];
    let mut expected = vec![0; 1 << 16];
    loop {
        let next = format!("{path}.next");
        let text = format!(
            "received {} duplicates {duplicates} corrupted {corrupted}\n",
            seen.len()
        );
        std::fs::write(&next, text).map_err(|why| format!("{next}: {why}"))?;
        std::fs::rename(&next, &path).map_err(|why| format!("{path}: {why}"))?;
        let got = socket
            .recv(&mut buffer)
            .map_err(|why| format!("recv: {why}"))?;
        let Some((head, body)) = buffer[..got].split_first_chunk::<8>() else {
            corrupted += 1;
            continue;
        };
        let id = u64::from_le_bytes(*head);
        let expected = &mut expected[..body.len()];
        Pattern::new(id).fill(expected);
        if body != expected {
            corrupted += 1;
        } else if !seen.insert(id) {
            duplicates += 1;
        }
    }
}

pub fn udp_push(address: &str, port: &str, count: &str, size: &str, options: &[&str]) -> Outcome {
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(|why| format!("bind: {why}"))?;
    socket
        .connect((address, number(port)?))
        .map_err(|why| format!("connect: {why}"))?;
    let gap: u64 = option(options, "gap-us", 0)?;
    let first: u64 = option(options, "first", 0)?;
    let size: usize = number(size)?;
    if !(8..=65_507).contains(&size) {
        return Err(format!("{size}: a datagram here has 8 to 65507 bytes"));
    }
    let mut buffer = vec![0; size];
    for id in first..first + number::<u64>(count)? {
        buffer[..8].copy_from_slice(&id.to_le_bytes());
        Pattern::new(id).fill(&mut buffer[8..]);
        socket
            .send(&buffer)
            .map_err(|why| format!("datagram {id}: {why}"))?;
        if gap > 0 {
            std::thread::sleep(Duration::from_micros(gap));
        }
    }
    Ok(())
}
