// SPDX-License-Identifier: MPL-2.0
//! Elements that share one estimate of the delay.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, Weak};

use jitterbuffer_core::Timing;

/// Of a group.
pub type Shared = Arc<Mutex<Timing>>;

/// All groups of the process that have members.
static GROUPS: LazyLock<Mutex<HashMap<String, Weak<Mutex<Timing>>>>> =
    LazyLock::new(Mutex::default);

/// A panic elsewhere leaves a usable estimate behind.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// What the group of this name shares; without a name: nothing is shared.
pub fn join(name: Option<&str>, timing: Timing) -> Shared {
    let Some(name) = name else {
        return Arc::new(Mutex::new(timing));
    };
    let mut groups = lock(&GROUPS);
    groups.retain(|_, group| group.strong_count() > 0);
    if let Some(shared) = groups.get(name).and_then(Weak::upgrade) {
        return shared;
    }
    let shared = Arc::new(Mutex::new(timing));
    groups.insert(name.to_owned(), Arc::downgrade(&shared));
    shared
}

#[cfg(test)]
mod tests {
    use super::*;
    use jitterbuffer_core::{Config, ModelKind};

    #[test]
    fn a_group_lasts_as_long_as_its_members() {
        let timing = || Timing::new(ModelKind::Adaptive, Config::default()).unwrap();
        let a = join(Some("a test"), timing());
        let b = join(Some("a test"), timing());
        assert!(Arc::ptr_eq(&a, &b));
        assert!(!Arc::ptr_eq(&a, &join(Some("another"), timing())));
        assert!(!Arc::ptr_eq(&join(None, timing()), &join(None, timing())));
        let weak = Arc::downgrade(&a);
        drop((a, b));
        assert!(weak.upgrade().is_none());
        join(Some("a third"), timing());
        assert!(!lock(&GROUPS).contains_key("a test"));
    }
}
