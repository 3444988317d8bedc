//! Signs a release: a file beside its manifest, which can be checked offline.
//!
//! The signed text names the hash of the manifest, which names everything else.
//! `docs/verify.md` describes the three files.

use ed25519_dalek::{SECRET_KEY_LENGTH, Signature, Signer, SigningKey, VerifyingKey};

use crate::printable::hexadecimal;
use crate::release::Hash;

/// The first line of each kind of file: a name and a version.
const SIGNATURE: &str = "cloister-signature 2";
const SECRET: &str = "cloister-secret-key 1";
const PUBLIC: &str = "cloister-public-key 1";

/// The size of the largest of these files, in bytes.
pub const MAX_FILE: u64 = 4096;

/// The reason why a key or a signature is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The file is of another kind, or damaged.
    #[error("not a {kind}: {reason}")]
    Malformed {
        /// The expected kind.
        kind: &'static str,
        /// The mistake in it.
        reason: &'static str,
    },
    /// The file has an unknown version.
    #[error("a {kind} of a version that is not known: {found}")]
    Version {
        /// The kind of file.
        kind: &'static str,
        /// Its first line.
        found: String,
    },
    /// The bytes are not a point of the curve, or a weak one.
    #[error("the public key is not a key of Ed25519, or is a weak one")]
    Key,
    /// The system has no random bits.
    #[error("the system gives no random bits: {0}")]
    Random(String),
    /// The signature was made with another key.
    #[error("signed with another key: {0}")]
    OtherKey(String),
    /// The signature is for another manifest.
    #[error("the signature is for another manifest, of SHA-256 {0}")]
    OtherRelease(String),
    /// The signature does not fit its text.
    #[error("the signature is invalid: the key did not sign this")]
    False,
}

/// Returns the text that is signed, for the SHA-256 of a manifest.
fn signed_text(release: &Hash) -> String {
    format!("{SIGNATURE}\nrelease sha256 {}\n", hexadecimal(release))
}

/// Makes a new pair of keys, and returns the texts of the files for the secret and the public key.
///
/// # Errors
/// The system has no random bits.
pub fn generate() -> Result<(String, String), SignError> {
    let mut seed = [0; SECRET_KEY_LENGTH];
    getrandom::fill(&mut seed).map_err(|error| SignError::Random(error.to_string()))?;
    let key = SigningKey::from_bytes(&seed);
    let secret = format!("{SECRET}\ned25519 {}\n", hexadecimal(&seed));
    Ok((secret, format!("{PUBLIC}\ned25519 {}\n", hexadecimal(key.verifying_key().as_bytes()))))
}

/// Signs the SHA-256 of a manifest, and returns the text of the signature's file.
///
/// # Errors
/// The text is not a secret key.
pub fn sign(release: &Hash, secret_key: &str) -> Result<String, SignError> {
    let kind = "secret key";
    let [line] = lines(secret_key, SECRET, kind)?;
    let key = SigningKey::from_bytes(&bytes(line, "ed25519", kind)?);
    let text = signed_text(release);
    let signature = key.sign(text.as_bytes());
    let public = hexadecimal(key.verifying_key().as_bytes());
    Ok(format!("{text}key ed25519 {public}\nsignature ed25519 {}\n", hexadecimal(&signature.to_bytes())))
}

/// Checks a signature with a trusted key, for the SHA-256 of a manifest.
///
/// # Errors
/// The signature or the key is wrong; the error says why.
pub fn check(release: &Hash, signature: &str, public_key: &str) -> Result<(), SignError> {
    let kind = "public key";
    let [line] = lines(public_key, PUBLIC, kind)?;
    let trusted: [u8; 32] = bytes(line, "ed25519", kind)?;
    let key = VerifyingKey::from_bytes(&trusted).map_err(|_| SignError::Key)?;
    if key.is_weak() {
        return Err(SignError::Key);
    }
    let kind = "signature";
    let [signed, signer, made] = lines(signature, SIGNATURE, kind)?;
    let signer: [u8; 32] = bytes(signer, "key ed25519", kind)?;
    if signer != trusted {
        return Err(SignError::OtherKey(hexadecimal(&signer)));
    }
    let signed: Hash = bytes(signed, "release sha256", kind)?;
    if signed != *release {
        return Err(SignError::OtherRelease(hexadecimal(&signed)));
    }
    let made = Signature::from_bytes(&bytes(made, "signature ed25519", kind)?);
    key.verify_strict(signed_text(release).as_bytes(), &made).map_err(|_| SignError::False)
}

/// Returns the lines after the first one, which names kind and version.
fn lines<'a, const N: usize>(text: &'a str, first: &str, kind: &'static str) -> Result<[&'a str; N], SignError> {
    let malformed = |reason| SignError::Malformed { kind, reason };
    let mut lines = text.lines();
    let found = lines.next().ok_or_else(|| malformed("the file is empty"))?;
    if found != first {
        let name = first.split(' ').next().unwrap_or(first);
        return match found.split(' ').next() {
            Some(word) if word == name => Err(SignError::Version { kind, found: found.escape_default().to_string() }),
            _ => Err(malformed("it does not start as one")),
        };
    }
    let rest: Vec<&str> = lines.collect();
    rest.try_into().map_err(|_| malformed("it has not as many lines as it must have"))
}

fn bytes<const N: usize>(line: &str, name: &str, kind: &'static str) -> Result<[u8; N], SignError> {
    let malformed = |reason| SignError::Malformed { kind, reason };
    let digits = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(' '));
    let digits = digits.ok_or_else(|| malformed("a line has another name"))?;
    let wrong = || malformed("a number is not in hexadecimal of its length");
    if digits.len() != N * 2 || !digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
        return Err(wrong());
    }
    let mut out = [0; N];
    for (byte, place) in out.iter_mut().enumerate() {
        let digits = digits.get(byte * 2..byte * 2 + 2).ok_or_else(wrong)?;
        *place = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SUBJECT: Hash = [0x5A; 32];
    /// The first test vector of RFC 8032.
    const RFC_SECRET: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    const RFC_PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    fn keys() -> (String, String) {
        (format!("{SECRET}\ned25519 {RFC_SECRET}\n"), format!("{PUBLIC}\ned25519 {RFC_PUBLIC}\n"))
    }

    #[test]
    fn only_the_signed_release_is_accepted() {
        let (secret, public) = keys();
        let signature = sign(&SUBJECT, &secret).unwrap();
        assert!(signature.starts_with("cloister-signature 2\nrelease sha256 5a5a5a"), "{signature}");
        assert_eq!(check(&SUBJECT, &signature, &public), Ok(()));
        assert!(matches!(check(&[0; 32], &signature, &public), Err(SignError::OtherRelease(_))));
        let (_, stranger) = generate().unwrap();
        assert_eq!(check(&SUBJECT, &signature, &stranger), Err(SignError::OtherKey(RFC_PUBLIC.into())));
    }

    #[test]
    fn a_signature_cannot_be_given_to_another_release() {
        let (secret, public) = keys();
        let moved = sign(&SUBJECT, &secret).unwrap().replace(&"5a".repeat(32), &"00".repeat(32));
        assert_eq!(check(&[0; 32], &moved, &public), Err(SignError::False));
    }

    #[test]
    fn new_keys_sign_and_differ() {
        let (secret, public) = generate().unwrap();
        assert_ne!(generate().unwrap().0, secret);
        assert_eq!(check(&SUBJECT, &sign(&SUBJECT, &secret).unwrap(), &public), Ok(()));
    }

    #[test]
    fn files_of_another_kind_or_version_are_refused() {
        let (secret, public) = keys();
        let said = |result: Result<String, SignError>| result.unwrap_err().to_string();
        assert_eq!(said(sign(&SUBJECT, "")), "not a secret key: the file is empty");
        assert_eq!(said(sign(&SUBJECT, &public)), "not a secret key: it does not start as one");
        let newer = secret.replace("key 1", "key 2");
        assert_eq!(said(sign(&SUBJECT, &newer)), "a secret key of a version that is not known: cloister-secret-key 2");
        let longer = format!("{secret}\n");
        assert_eq!(said(sign(&SUBJECT, &longer)), "not a secret key: it has not as many lines as it must have");
        let short = secret.replace("60\n", "\n");
        assert_eq!(said(sign(&SUBJECT, &short)), "not a secret key: a number is not in hexadecimal of its length");
        let named = secret.replace("ed25519", "rsa");
        assert_eq!(said(sign(&SUBJECT, &named)), "not a secret key: a line has another name");
        // The neutral element signs everything.
        let weak = format!("{PUBLIC}\ned25519 01{}\n", "00".repeat(31));
        assert_eq!(check(&SUBJECT, "", &weak), Err(SignError::Key));
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_refused(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let (secret, public) = keys();
            let signature = sign(&SUBJECT, &secret).unwrap();
            let mut changed = signature.clone().into_bytes();
            // The last line feed may be missing.
            let at = at.index(changed.len() - 1);
            changed[at] = byte;
            if let Ok(text) = String::from_utf8(changed) && text != signature {
                prop_assert!(check(&SUBJECT, &text, &public).is_err(), "{text}");
            }
        }

        #[test]
        fn any_text_is_answered(text in ".{0,200}") {
            let (_, public) = keys();
            prop_assert!(sign(&SUBJECT, &text).is_err());
            prop_assert!(check(&SUBJECT, &text, &public).is_err());
            prop_assert!(check(&SUBJECT, "", &text).is_err());
        }
    }
}
