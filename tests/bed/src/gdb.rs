//! Speaks gdb's remote protocol with QEMU, as its debugger: breakpoints, single steps, registers,
//! physical memory, and commands of QEMU's monitor.
//!
//! The protocol is in gdb's manual, appendix "Remote Serial Protocol". QEMU's own packets are in its
//! `docs/system/gdb.rst`.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::BedError;

/// The time within which QEMU answers a packet, snapshots of the machine included.
const ANSWER: Duration = Duration::from_secs(30);
/// Bytes of memory in one packet. QEMU's packets have at most 4,096 characters.
const PIECE: usize = 1024;
/// A stop by the byte that [`Gdb::interrupt`] sends.
const INTERRUPT: u8 = 3;

/// The registers of the processor, as QEMU sends them.
#[derive(Clone, PartialEq, Eq)]
pub struct Registers(Vec<u8>);

impl Registers {
    /// Bytes of the registers that every version of QEMU sends first: 16 general ones, RIP,
    /// RFLAGS and six segments.
    const LEAST: usize = 17 * 8 + 7 * 4;

    /// Reads the answer to packet `g`.
    fn parse(text: &[u8]) -> Result<Self, BedError> {
        let bytes = decode(text)?;
        if bytes.len() < Self::LEAST {
            return Err(failed(format!("it sent {} bytes of registers", bytes.len())));
        }
        Ok(Self(bytes))
    }

    fn word(&self, index: usize) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&self.0[8 * index..8 * index + 8]);
        u64::from_le_bytes(word)
    }

    /// Returns RAX.
    pub fn rax(&self) -> u64 {
        self.word(0)
    }

    /// Returns RSP.
    pub fn rsp(&self) -> u64 {
        self.word(7)
    }

    /// Returns RIP.
    pub fn rip(&self) -> u64 {
        self.word(16)
    }

    /// Returns the selector in CS.
    pub fn cs(&self) -> u16 {
        u16::from_le_bytes([self.0[17 * 8 + 4], self.0[17 * 8 + 5]])
    }
}

impl fmt::Debug for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = "rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip";
        for (index, name) in names.split(' ').enumerate() {
            write!(f, "{name}={:#x} ", self.word(index))?;
        }
        write!(f, "others={}", encode(&self.0[17 * 8..]))
    }
}

/// A connection with QEMU's stub for gdb.
pub struct Gdb {
    stream: UnixStream,
    /// Received bytes that are not handled yet.
    received: Vec<u8>,
}

impl Gdb {
    /// Begins a conversation. The machine is stopped.
    pub fn new(stream: UnixStream) -> Result<Self, BedError> {
        let mut gdb = Self { stream, received: Vec::new() };
        gdb.command("?")?;
        Ok(gdb)
    }

    /// Sets a breakpoint at a virtual address, in whatever address space.
    pub fn set_breakpoint(&mut self, address: u64) -> Result<(), BedError> {
        self.ok(&format!("Z0,{address:x},1"))
    }

    /// Removes a breakpoint.
    pub fn remove_breakpoint(&mut self, address: u64) -> Result<(), BedError> {
        self.ok(&format!("z0,{address:x},1"))
    }

    /// Returns the registers.
    pub fn registers(&mut self) -> Result<Registers, BedError> {
        Registers::parse(&self.command("g")?)
    }

    /// Lets the machine run.
    pub fn resume(&mut self) -> Result<(), BedError> {
        self.send(b"c")
    }

    /// Executes one instruction. Interrupts wait meanwhile.
    pub fn step(&mut self) -> Result<(), BedError> {
        self.command("s").map(drop)
    }

    /// Returns `true` if the machine has stopped, or stops within `limit`.
    pub fn stopped(&mut self, limit: Duration) -> Result<bool, BedError> {
        Ok(self.packet(limit)?.is_some())
    }

    /// Stops the running machine.
    pub fn interrupt(&mut self) -> Result<(), BedError> {
        self.write(&[INTERRUPT])?;
        match self.stopped(ANSWER)? {
            true => Ok(()),
            false => Err(failed("the machine does not stop".to_owned())),
        }
    }

    /// Executes a command of QEMU's monitor, and returns what it prints.
    pub fn monitor(&mut self, command: &str) -> Result<String, BedError> {
        let mut answer = self.command(&format!("qRcmd,{}", encode(command.as_bytes())))?;
        let mut text = Vec::new();
        while answer != b"OK" {
            let Some(part) = answer.strip_prefix(b"O") else {
                return Err(failed(format!("the monitor refused `{command}`")));
            };
            text.extend(decode(part)?);
            answer = self.answer()?;
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Reads physical memory of the machine (not of a virtual machine in it).
    pub fn read_physical(&mut self, address: u64, length: usize) -> Result<Vec<u8>, BedError> {
        let mut bytes = Vec::new();
        self.ok("Qqemu.PhyMemMode:1")?;
        while bytes.len() < length {
            let count = PIECE.min(length - bytes.len());
            let part = decode(&self.command(&format!("m{:x},{count:x}", address + bytes.len() as u64))?)?;
            if part.len() != count {
                return Err(failed(format!("it sent {} bytes of {count} from {address:#x}", part.len())));
            }
            bytes.extend(part);
        }
        self.ok("Qqemu.PhyMemMode:0")?;
        Ok(bytes)
    }

    /// Writes a few bytes of physical memory of the machine.
    pub fn write_physical(&mut self, address: u64, bytes: &[u8]) -> Result<(), BedError> {
        self.ok("Qqemu.PhyMemMode:1")?;
        self.ok(&format!("M{address:x},{:x}:{}", bytes.len(), encode(bytes)))?;
        self.ok("Qqemu.PhyMemMode:0")
    }

    fn ok(&mut self, packet: &str) -> Result<(), BedError> {
        match self.command(packet)?.as_slice() {
            b"OK" => Ok(()),
            other => Err(failed(format!("it answered {:?} to {packet}", String::from_utf8_lossy(other)))),
        }
    }

    fn command(&mut self, packet: &str) -> Result<Vec<u8>, BedError> {
        self.send(packet.as_bytes())?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Vec<u8>, BedError> {
        self.packet(ANSWER)?.ok_or_else(|| failed("it does not answer".to_owned()))
    }

    fn send(&mut self, packet: &[u8]) -> Result<(), BedError> {
        let framed = [b"$", packet, format!("#{:02x}", checksum(packet)).as_bytes()].concat();
        self.write(&framed)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BedError> {
        self.stream.write_all(bytes).map_err(|error| failed(error.to_string()))
    }

    /// Returns the content of the next packet, or `None` if none comes within `limit`.
    fn packet(&mut self, limit: Duration) -> Result<Option<Vec<u8>>, BedError> {
        let until = Instant::now() + limit;
        loop {
            if let Some(packet) = take_packet(&mut self.received)? {
                self.write(b"+")?;
                return Ok(Some(packet));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let mut piece = [0; 4096];
            self.stream.set_read_timeout(Some(left)).map_err(|error| failed(error.to_string()))?;
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(failed("QEMU has ended".to_owned())),
                Ok(count) => self.received.extend_from_slice(&piece[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(failed(error.to_string())),
            }
        }
    }
}

/// Takes a whole packet, `$content#checksum`, from the front of `received`. Drops what is before
/// it: acknowledgements.
fn take_packet(received: &mut Vec<u8>) -> Result<Option<Vec<u8>>, BedError> {
    let Some(start) = received.iter().position(|&byte| byte == b'$') else { return Ok(None) };
    let Some(length) = received[start..].iter().position(|&byte| byte == b'#') else { return Ok(None) };
    let end = start + length;
    let Some(digits) = received.get(end + 1..end + 3) else { return Ok(None) };
    let content = received[start + 1..end].to_vec();
    if decode(digits)? != [checksum(&content)] {
        return Err(failed("a packet has the wrong checksum".to_owned()));
    }
    received.drain(..end + 3);
    Ok(Some(content))
}

fn checksum(packet: &[u8]) -> u8 {
    packet.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn decode(text: &[u8]) -> Result<Vec<u8>, BedError> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = |pair: &[u8]| match *pair {
        [high, low] => Some((digit(high)? << 4 | digit(low)?) as u8),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text.chunks(2).map(byte).collect();
    bytes.ok_or_else(|| failed(format!("it answered {:?}", String::from_utf8_lossy(text))))
}

fn failed(what: String) -> BedError {
    BedError::Debugger(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_taken_once_it_is_whole() {
        let mut received = b"+$OK#9".to_vec();
        assert_eq!(take_packet(&mut received).expect("no error"), None);
        received.extend(b"a$T05#b9");
        assert_eq!(take_packet(&mut received).expect("no error"), Some(b"OK".to_vec()));
        assert_eq!(take_packet(&mut received).expect("no error"), Some(b"T05".to_vec()));
        assert_eq!(take_packet(&mut received).expect("no error"), None);
        assert!(take_packet(&mut b"$OK#00".to_vec()).is_err());
    }

    #[test]
    fn bytes_are_pairs_of_digits() {
        assert_eq!(encode(&[0, 0x3a, 0xff]), "003aff");
        assert_eq!(decode(b"003aFF").expect("digits"), [0, 0x3a, 0xff]);
        for bad in [&b"0"[..], b"E1x", b"zz"] {
            assert!(decode(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn registers_lie_where_qemu_puts_them() {
        let mut bytes: Vec<u8> = (0..17_u64).flat_map(|number| (number + 100).to_le_bytes()).collect();
        bytes.extend([0x86_u32, 0x23, 0x1b, 0, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()));
        let registers = Registers::parse(encode(&bytes).as_bytes()).expect("registers");
        let read = (registers.rax(), registers.rsp(), registers.rip(), registers.cs());
        assert_eq!(read, (100, 107, 116, 0x23));
        assert!(Registers::parse(b"0000").is_err());
    }
}
