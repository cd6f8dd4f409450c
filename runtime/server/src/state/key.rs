//! What a pair is called on disk: the one place where the parts of its name are put together.

use tidegate_event::Space;

/// Everything of a module begins with this, and nothing of another: tenant and module, each with its length before
/// it, so that no choice of names makes one module's keys look like another's.
pub(super) fn module(space: &Space) -> Vec<u8> {
    let mut name = Vec::with_capacity(64);
    part(&mut name, space.tenant.name());
    part(&mut name, &space.module);
    name
}

/// The name of the pair `key` in `space`; with an empty key what all names of the bucket begin with.
pub(super) fn pair(space: &Space, key: &str) -> Vec<u8> {
    let mut name = module(space);
    part(&mut name, &space.bucket);
    name.extend_from_slice(key.as_bytes());
    name
}

fn part(name: &mut Vec<u8>, text: &str) {
    // No name is longer than a file's or a tenant's in the configuration, far below the 4 GiB that fit here.
    name.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    name.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_event::Tenant;

    fn space(tenant: &str, module: &str, bucket: &str) -> Space {
        Space { tenant: Tenant::new(tenant), module: module.into(), bucket: bucket.into() }
    }

    #[test]
    fn parts_cannot_run_into_each_other() {
        let spaces = [
            space("a", "bc", "d"),
            space("ab", "c", "d"),
            space("a", "b", "cd"),
            space("a", "bcd", ""),
            space("", "abc", "d"),
        ];
        for one in &spaces {
            for other in &spaces {
                let is_inside = pair(other, "k").starts_with(&pair(one, ""));
                assert_eq!(is_inside, one == other, "{one:?} {other:?}");
            }
        }
    }
}
