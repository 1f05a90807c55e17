//! Makes a policy in one expression.
//!
//! It decides nothing, and its defaults are those of the policy. The one rule: what comes out is
//! valid.

use std::time::Duration;

use super::policy::{Leftovers, Policy, PolicyError, Restart, StartLimit, StopScope, StopStep};

/// Makes a valid [`Policy`]: see [`Policy::builder`].
#[derive(Debug, Clone)]
#[must_use = "`build` makes the policy"]
pub struct PolicyBuilder(Policy);

/// Makes a method for each field.
macro_rules! setters {
    ($($field:ident: $Value:ty,)*) => { $(
        #[doc = concat!("Sets [`", stringify!($field), "`](Policy::", stringify!($field), ").")]
        pub fn $field(mut self, $field: $Value) -> Self {
            self.0.$field = $field.into();
            self
        }
    )* };
}

impl PolicyBuilder {
    setters! {
        threshold: Duration,
        kill_time: Duration,
        min_restart_delay: Duration,
        max_restart_delay: Duration,
        restart: Restart,
        leftovers: Leftovers,
        stop_signal: i32,
        stop_scope: StopScope,
        stop: impl Into<Vec<StopStep>>,
        restart_limit: impl Into<Option<StartLimit>>,
        success_codes: impl Into<Vec<i32>>,
        fatal_codes: impl Into<Vec<i32>>,
        jitter: u32,
    }

    /// Returns the policy, if the values make sense together.
    ///
    /// # Errors
    ///
    /// As [`Policy::validate`].
    pub fn build(self) -> Result<Policy, PolicyError> {
        self.0.validate()?;
        Ok(self.0)
    }
}

impl Policy {
    /// Makes a policy in one expression, from the default values.
    ///
    /// # Examples
    ///
    /// ```
    /// use childminder::restart::{Policy, Restart, StartLimit};
    /// use std::time::Duration;
    ///
    /// let policy = Policy::builder()
    ///     .restart(Restart::OnFailure)
    ///     .kill_time(Duration::from_secs(20))
    ///     .restart_limit(StartLimit { starts: 5, within: Duration::from_secs(60) })
    ///     .success_codes([143])
    ///     .build()?;
    /// assert_eq!(policy.success_codes, [143]);
    /// assert!(Policy::builder().jitter(101).build().is_err());
    /// # Ok::<(), childminder::PolicyError>(())
    /// ```
    pub fn builder() -> PolicyBuilder {
        PolicyBuilder(Self::default())
    }
}
