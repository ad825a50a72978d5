//! The keys of table `entries`. Pure.

use blake2b_simd::Params;

use super::message::Access;
use crate::path::FlistPath;

/// The key of a directory: BLAKE2b-128 of its path, of which the root's is empty.
pub fn directory_key(path: &FlistPath) -> String {
    digest(path.as_bytes(), 16)
}

/// The key of a kind of access: BLAKE2b-64 of its text.
pub fn access_key(access: &Access) -> String {
    let Access { user, group, mode, uid, gid } = access;
    let numbers = format!("\nmode:0o{mode:o}\nuid:{uid}\ngid:{gid}");
    digest(&[b"user:", user.as_slice(), b"\ngroup:", group, numbers.as_bytes()].concat(), 8)
}

fn digest(bytes: &[u8], length: usize) -> String {
    hex::encode(Params::new().hash_length(length).hash(bytes).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_as_others_make_them() {
        let directory = |path: &str| directory_key(&path.parse().unwrap());
        assert_eq!(directory(""), "cae66941d9efbd404e4d88758ea67670");
        assert_eq!(directory("bin"), "9385d23818077a26310b147ebd80bb7b");
        let (user, group) = (b"root".to_vec(), b"root".to_vec());
        let access = |mode| Access { user: user.clone(), group: group.clone(), mode, uid: 0, gid: 0 };
        for (mode, key) in [
            (0o755, "d7683de000c13689"),
            (0o644, "5f64cf1389d15471"),
            (0o777, "73e6e9d75d19d7da"),
            (0o600, "a97b105fb69c21f0"),
            (0o700, "786b0e05a2fa8939"),
            (0o4755, "2d28e41ae14a6bcf"),
        ] {
            assert_eq!(access_key(&access(mode)), key);
        }
    }
}
