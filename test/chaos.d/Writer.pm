# A writer of the chaos run: one connection that writes, now as the old version
# of the application, now as the new one, and keeps books of what it has been
# told.  It alone writes its rows (id modulo the number of writers); all of them
# add to the shared rows.
#
# The column pair moves on with each migration: c0, c1, ...  Columns of even
# number hold a value, those of odd number a hundred times as much.  The file
# `state` says which columns there are and what may be done:
#
#     gen=N        changes with each change; a writer that has seen it says so
#     old=N new=N  the columns' numbers; new empty: no migration
#     may=...      oa, or, na, nr: the old or the new column may be set absolutely,
#                  or relative to what it holds (which is reading it)
#     read=N       a column that is up to date
#     hold=1       leave the books, and wait
package Writer;

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../t";
use DWSession;
use Time::HiRes qw(sleep time);

# Reads a file of key=value lines; empty while it is being replaced.
sub read_state
{
	my ($file) = @_;
	my %state = (gen => 0, old => 0, new => '', may => 'oa or', read => 0, hold => 0);

	open my $in, '<', $file or return \%state;
	while (<$in>) { $state{$1} = $2 if /^(\w+)=(.*)$/ }
	return \%state;
}

# Complete or not there: the name comes last.
sub spill
{
	my ($file, @lines) = @_;

	open my $out, '>', "$file.$$" or die "$file: $!";
	print $out @lines;
	close $out or die "$file: $!";
	rename "$file.$$", $file or die "$file: $!";
	return;
}

sub scale { return $_[0] % 2 ? 100 : 1 }

sub new
{
	my ($class, %w) = @_;
	my $self = bless { %w, have => {}, plus => {}, doubt => {}, next => $w{rows} + 1 + $w{number},
		count => {}, problems => [], state => read_state("$w{dir}/state"), acked => -1 }, $class;

	srand $w{seed};
	return $self;
}

sub run
{
	my ($self) = @_;

	while (getppid == $self->{parent} && !-e "$self->{dir}/stop")
	{
		$self->look or next;
		$self->connected or next;
		$self->write_one;
	}
	$self->leave_books;
	session_close($self->{session}) if $self->{session};
	return;
}

# What is allowed now?  False while everything is held.
sub look
{
	my ($self) = @_;
	my $state = $self->{state} = read_state("$self->{dir}/state");

	if ($self->{acked} != $state->{gen})
	{
		$self->leave_books;
		spill("$self->{dir}/ack.$self->{number}", $state->{gen});
		$self->{acked} = $state->{gen};
	}
	return 1 unless $state->{hold};
	sleep 0.02;
	return 0;
}

sub connected
{
	my ($self) = @_;

	return 1 if $self->{session};
	my $s = session_open($self->{connstr}, "$self->{dir}/err.$self->{number}");
	my ($r) = session_do($s, 'SELECT 1');
	if ($r eq 'ok')
	{
		$self->{session} = $s;
		return 1;
	}
	session_close($s);
	sleep 0.05;
	return 0;
}

sub some_row
{
	my ($self) = @_;
	my ($all, $shared, $rows) = @$self{qw(writers shared rows)};

	# a few rows again and again, or any of those that were there, or one of my own
	my $dice = rand;
	my $made = ($self->{next} - $rows - 1 - $self->{number}) / $all;
	return $shared + 1 + $self->{number} + $all * int rand 5 if $dice < 0.3;
	return $shared + 1 + $self->{number} + $all * int rand(($rows - $shared) / $all - 1) if $dice < 0.8 || !$made;
	return $rows + 1 + $self->{number} + $all * int rand $made;
}

# What the books say of a row of mine; undef: it isn't there.
sub value_of
{
	my ($self, $id) = @_;

	return exists $self->{have}{$id} ? $self->{have}{$id} : $id <= $self->{rows} ? $id : undef;
}

# One write; SQL, the row, and the value afterwards.
sub some_write
{
	my ($self) = @_;
	my $state = $self->{state};
	my @may = split / /, $state->{may};
	my ($side, $how) = split //, $may[ rand @may ];
	my $n = $side eq 'o' ? $state->{old} : $state->{new};
	my $column = "c$n";
	my $scale = scale($n);
	my $id = $self->some_row;
	my $before = $self->value_of($id);
	my $value = int rand 1_000_000;
	my $set = "$column = $value * $scale";
	my $after = defined $before ? $value : undef;
	my $dice = rand;

	if ($how eq 'r')
	{
		my $d = int rand 100;

		if ($dice < 0.3)
		{
			return { shared => 1 + int rand $self->{shared}, sql => "UPDATE t SET $column = $column + $scale WHERE id = %d" };
		}
		$set = "$column = $column + $d * $scale";
		$after = $before + $d if defined $before;
	}
	elsif ($dice < 0.05)
	{
		$id = $self->{next};
		$self->{next} += $self->{writers};
		return { id => $id, before => undef, after => $value, sql => "INSERT INTO t (id, $column, filler) VALUES ($id, $value * $scale, repeat('y', 150))" };
	}
	elsif ($dice < 0.1)
	{
		return { id => $id, before => $before, after => undef, sql => "DELETE FROM t WHERE id = $id" };
	}
	elsif ($dice < 0.2)
	{
		return { id => $id, before => $before, after => $value, sql => "INSERT INTO t (id, $column) VALUES ($id, $value * $scale) ON CONFLICT (id) DO UPDATE SET $column = excluded.$column" };
	}
	my $sql = "UPDATE t SET $set WHERE id = $id";
	$dice = rand;
	if ($dice < 0.1)
	{
		$sql = "UPDATE t SET filler = 'z' || $value WHERE id = $id";
		$after = $before;
	}
	elsif ($dice < 0.15)
	{
		$sql = "BEGIN\\; $sql\\; ROLLBACK";
		$after = $before;
	}
	elsif ($dice < 0.1)
	{
		$sql = "BEGIN\\; SAVEPOINT a\\; $sql\\; RELEASE a\\; SAVEPOINT b\\; DELETE FROM t WHERE id = $id\\; ROLLBACK TO b\\; COMMIT";
	}
	elsif ($dice < 0.3)
	{
		$sql = "BEGIN\\; SELECT FROM t WHERE id = $id FOR UPDATE\\; $sql\\; COMMIT";
	}
	return { id => $id, before => $before, after => $after, sql => $sql };
}

sub write_one
{
	my ($self) = @_;

	sleep 0.001;                     # the faults need some of the machine, too
	return $self->check_row if rand() < 0.1;
	my $w = $self->some_write;
	my $sql = $w->{shared} ? sprintf $w->{sql}, $w->{shared} : $w->{sql};
	my ($r, $what) = session_do($self->{session}, $sql);

	$self->{count}{$r}++;
	if ($r eq 'ok')
	{
		if ($w->{shared}) { $self->{plus}{ $w->{shared} }++ }
		else { $self->{have}{ $w->{id} } = $w->{after} }
	}
	elsif ($r eq 'lost')
	{
		$self->lose_session;
		if ($w->{shared}) { $self->{doubt}{ $w->{shared} }++ }
		else { $self->settle($w) }
	}
	else
	{
		# a column that comes or goes, a fault, somebody who cancels: nothing has been written
		$self->problem("$what: $sql: " . $self->last_error) unless $what =~ /^(?:42703|DWFLT|57014)$/;
		$self->{count}{$what}++;
		my ($again) = session_do($self->{session}, 'ROLLBACK');
		$self->lose_session if $again eq 'lost';
	}
	return;
}

# Committed or not, both are right; anything else is a lost or wrong value.
sub settle
{
	my ($self, $w) = @_;
	my ($known, $found) = $self->read_row($w->{id}) or return;

	$self->problem('row ' . $w->{id} . ' holds ' . shown($found) . ', which is neither ' . shown($w->{before}) . ' nor ' . shown($w->{after}) . ": $w->{sql}")
	  unless shown($found) eq shown($w->{before}) || shown($found) eq shown($w->{after});
	$self->{have}{ $w->{id} } = $found;
	return;
}

# What I have been told is still there.
sub check_row
{
	my ($self) = @_;
	my $id = $self->some_row;
	my ($known, $found) = $self->read_row($id) or return;

	$self->{count}{read}++;
	$self->problem("row $id holds " . shown($found) . ', not ' . shown($self->value_of($id)) . " (c$self->{state}{read})")
	  unless shown($found) eq shown($self->value_of($id));
	$self->{have}{$id} = $found;
	return;
}

sub shown { return defined $_[0] ? $_[0] : 'nothing' }

# (1, value of a row of mine), whatever happens to the connection meanwhile; () at the end of it all.
sub read_row
{
	my ($self, $id) = @_;

	while (getppid == $self->{parent})
	{
		$self->connected or next;
		my $n = $self->{state}{read};
		my ($r, $value) = session_do($self->{session}, "SELECT coalesce((c$n / " . scale($n) . ")::text, 'null') FROM t WHERE id = $id");
		return (1, $value) if $r eq 'ok';
		if ($r eq 'lost') { $self->lose_session }
		else { sleep 0.05 }
		$self->{state} = read_state("$self->{dir}/state");
	}
	return;
}

sub lose_session
{
	my ($self) = @_;

	session_close($self->{session});
	undef $self->{session};
	return;
}

sub last_error
{
	my ($self) = @_;

	open my $in, '<', "$self->{dir}/err.$self->{number}" or return '';
	my @lines = <$in>;
	my ($line) = grep { /ERROR/ } reverse @lines;
	return $line // '';
}

sub problem
{
	my ($self, $text) = @_;

	push @{ $self->{problems} }, sprintf "%.1f writer %d: %s", time, $self->{number}, $text =~ s/\s+/ /gr;
	return;
}

sub leave_books
{
	my ($self) = @_;
	my $have = $self->{have};

	spill("$self->{dir}/books.$self->{number}",
		(map { "= $_ " . shown($have->{$_}) . "\n" } keys %$have),
		(map { "+ $_ $self->{plus}{$_}\n" } keys %{ $self->{plus} }),
		(map { "? $_ $self->{doubt}{$_}\n" } keys %{ $self->{doubt} }),
		(map { "N $_ $self->{count}{$_}\n" } keys %{ $self->{count} }),
		(map { "P $_\n" } @{ $self->{problems} }));
	return;
}

1;
