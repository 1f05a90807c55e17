#!/usr/bin/perl
# A process that writes its own life to files, for .ci/soak.
#
# usage: life.pl KIND NAME
#
# lives/NAME gets `B ID TIME` at its birth, `E ID TIME exit CODE` or `E ID TIME signal NUMBER` when it
# ends of its own will, and `D ID` if another one of its name is there. Each line that it writes to
# stdout is `ID NUMBER LENGTH xxx…`, and own/NAME gets `ID NUMBER` after it. Times are monotonic. An ID
# is the pid with the time of birth, as a pid may come back.
use strict;
use warnings;
use Fcntl qw(:flock :DEFAULT);
use POSIX ();
use Time::HiRes qw(sleep clock_gettime CLOCK_MONOTONIC);

my ($kind, $name) = @ARGV;
my ($life, $own, $lock, $terminated, $count) = (undef, undef, undef, 0, 0);
my $id = new_id();

sub append {
    my ($file, $text) = @_;
    syswrite($file, $text) == length $text or die "cannot note: $!";
}

sub new_id { $$ . '.' . int(1e6 * clock_gettime(CLOCK_MONOTONIC)) }

sub now { sprintf '%.6f', clock_gettime(CLOCK_MONOTONIC) }

sub line {
    my ($length) = @_;
    my $text = "$id $count $length " . 'x' x $length . "\n";
    my $written = 0;
    while ($written < length $text) {
        my $more = syswrite(STDOUT, $text, length($text) - $written, $written);
        if (defined $more) { $written += $more }
        elsif (!$!{EINTR}) { leave('exit', 99) }
    }
    append($own, "$id $count\n");
    $count++;
}

sub leave {
    my ($how, $number) = @_;
    append($life, "E $id " . now() . " $how $number\n");
    exit $number if $how eq 'exit';
    $SIG{$_} = 'DEFAULT' for qw(USR1 TERM ABRT);
    kill $number, $$;
    sleep 10;
}

sub nap {
    my ($seconds) = @_;
    my $end = clock_gettime(CLOCK_MONOTONIC) + $seconds;
    until ($terminated || clock_gettime(CLOCK_MONOTONIC) >= $end) {
        my $left = $end - clock_gettime(CLOCK_MONOTONIC);
        sleep($left > 0.05 ? 0.05 : $left) if $left > 0;
    }
}

# Somebody who keeps the pipe when its parent has gone.
sub grandchild {
    my $pid = fork // die "fork: $!";
    return if $pid;
    close $lock;
    $SIG{TERM} = 'DEFAULT';
    POSIX::setsid() if rand() < 0.5;
    ($id, $count) = (new_id(), 0);
    my $end = clock_gettime(CLOCK_MONOTONIC) + 0.1 + rand 1;
    while (clock_gettime(CLOCK_MONOTONIC) < $end) {
        line(int rand 100);
        sleep 0.05 + rand 0.1;
    }
    exit 0;
}

$SIG{TERM} = sub { $terminated = 1 };
$SIG{TERM} = 'IGNORE' if $kind eq 'deaf';
$SIG{PIPE} = 'IGNORE';
my $append = O_WRONLY | O_CREAT | O_APPEND;
sysopen($life, "lives/$name", $append) or die "lives/$name: $!";
sysopen($own, "own/$name", $append) or die "own/$name: $!";
sysopen($lock, "locks/$name", $append) or die "locks/$name: $!";
append($life, "D $id\n") unless flock $lock, LOCK_EX | LOCK_NB;
append($life, "B $id " . now() . "\n");
srand $$;

if ($kind eq 'instant') {
    line(10);
    leave('exit', 1);
} elsif ($kind eq 'crasher') {
    my $end = clock_gettime(CLOCK_MONOTONIC) + rand 0.8;
    until ($terminated || clock_gettime(CLOCK_MONOTONIC) >= $end) {
        line(int rand 200) for 0 .. rand 20;
        nap(rand 0.1);
    }
    leave('exit', 0) if $terminated;
    leave(rand() < 0.5 ? ('exit', int rand 99) : ('signal', (9, 10, 15, 6)[rand 4]));
} elsif ($kind eq 'forker') {
    grandchild() for 0 .. rand 2;
    line(int rand 100) for 0 .. 5;
    nap(0.2 + rand 1);
    leave('exit', 3);
} else {
    my ($lines, $length, $pause) = @{{
        steady => [1, 80, 0.05], talker => [200, 60, 0.25], long => [1, 60_000, 0.5], deaf => [1, 40, 0.1], flood => [3000, 900, 1.5],
    }->{$kind}};
    until ($terminated) {
        for (1 .. $lines) {
            last if $terminated;
            line(int rand $length);
        }
        nap($pause * (0.5 + rand));
    }
    leave('exit', 0);
}
