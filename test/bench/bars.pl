# The bars, as figures of test/bench/run. To be read by report.pl.
#
# They were set before the first line of pg_dualwrite was written, from what
# prototypes of each technique reached. They are not to be loosened: a bar that
# can't be reached stays, and is missed.
#
# A bar is an id, what is compared, where (a shape of row or table), the figure,
# and what it may be at most.

use strict;
use warnings;

our %figures;

# Instructions; where there is no valgrind, CPU time.
sub mirror_figure
{
	my ($case, $statement, $technique) = @_;
	return figure('mirror', "$case/$statement", $technique, 'instructions')
		// figure('mirror', "$case/$statement", $technique, 'cpu');
}

sub mirror_ratio
{
	my ($case, $statement, $above, $below) = @_;
	return ratio(mirror_figure($case, $statement, $above), mirror_figure($case, $statement, $below));
}

sub above_noop
{
	my ($case, $statement, $technique) = @_;
	return difference(mirror_figure($case, $statement, $technique), mirror_figure($case, $statement, 'noop'));
}

sub mirror_bars
{
	my @cases = qw(row int text split wide_first wide_middle wide_last);

	foreach (@cases)
	{
		bar('T1', 'INSERT, to a generated column', $_, mirror_ratio($_, 'insert', 'dw', 'gen'), 1.05);
		bar('T1', 'INSERT, above a no-op trigger, to two plpgsql triggers', $_,
			ratio(above_noop($_, 'insert', 'dw'), above_noop($_, 'insert', 'pair')), 0.1);
	}
	bar('T2', 'COPY, to a generated column', $_, mirror_ratio($_, 'copy', 'dw', 'gen'), 1.2) foreach @cases;
	bar('T3', 'UPDATE of the old column, to a generated column', $_, mirror_ratio($_, 'update_old', 'dw', 'gen'), 1.15)
		foreach @cases;
	bar('T4', 'UPDATE of another column, to a no-op trigger', $_, mirror_ratio($_, 'update_other', 'dw', 'noop'), 1.04)
		foreach @cases;

	# What the mapping doesn't name must not count: 30 columns beside 4.
	foreach my $case (qw(wide_first wide_middle wide_last))
	{
		bar('T5', 'INSERT, above a no-op trigger, to the row of 5 columns', $case,
			ratio(above_noop($case, 'insert', 'dw'), above_noop('row', 'insert', 'dw')), 1.1);
		bar('T5', 'UPDATE of the old column, above a no-op trigger, to the row of 5 columns', $case,
			ratio(above_noop($case, 'update_old', 'dw'), above_noop('row', 'update_old', 'dw')), 1.1);
	}
	return;
}

sub backfill_figure { return figure('backfill', @_) }

sub backfill_ratio
{
	my ($case, $above, $below, $measure) = @_;
	return ratio(backfill_figure($case, $above, $measure), backfill_figure($case, $below, $measure));
}

# With the worker's own VACUUMs, where they have been measured.
sub with_vacuum
{
	my ($case, $measure) = @_;
	return backfill_figure($case, 'dw_vacuum', $measure) // backfill_figure($case, 'dw', $measure);
}

sub backfill_bars
{
	my @cases = qw(sequential random narrow wide two_indexes three_indexes fillfactor_90);

	foreach (qw(sequential random two_indexes three_indexes fillfactor_90))
	{
		bar('B1', 'heap, to ideal', $_, backfill_figure($_, 'dw', 'heap, to ideal'), 1.04);
	}
	bar('B1', 'heap, to before', 'narrow', backfill_figure('narrow', 'dw', 'heap, to before'), 1.25);
	bar('B1', 'heap, to before', 'wide', backfill_figure('wide', 'dw', 'heap, to before'), 1.19);
	foreach (qw(sequential narrow wide fillfactor_90))
	{
		bar('B2', 'index, to before', $_, backfill_figure($_, 'dw', 'indexes, to before'), 1.01);
	}
	bar('B2', 'index, to before', 'random', with_vacuum('random', 'indexes, to before'), 1.08);
	foreach (qw(sequential random narrow wide fillfactor_90))
	{
		bar('B3', 'WAL, to one UPDATE', $_, backfill_ratio($_, 'dw', 'naive', 'wal'), 0.65);
	}
	foreach (@cases)
	{
		bar('B4', 'CPU, to one UPDATE', $_, backfill_ratio($_, 'dw', 'naive', 'cpu'), 0.85);
		bar('B4', 'CPU, to batches by key', $_, backfill_ratio($_, 'dw', 'key', 'cpu'), 0.5);
	}
	foreach (qw(two_indexes three_indexes))
	{
		bar('B5', 'WAL, to one UPDATE', $_, backfill_ratio($_, 'dw', 'naive', 'wal'), 0.6);
		bar('B5', 'indexes, to before', $_, with_vacuum($_, 'indexes, to before'), 1.05);
	}
	return;
}

sub latency_bars
{
	foreach (qw(p95 p99))
	{
		bar('L1', 'to the load alone', $_, ratio(figure('latency', $_, 'dw', 'latency'), figure('latency', $_, 'none', 'latency')), 1.2);
	}
	return;
}

sub verify_bars
{
	my %limit = (integer => 1.7, numeric => 4.2);

	foreach (qw(integer numeric))
	{
		my $case = $_;
		my %cpu = map { $_ => figure('verify', $case, $_, 'cpu') } qw(count query chunks);
		bar('V1', 'one query, to count(*)', $_, ratio($cpu{query}, $cpu{count}), $limit{$_});
		bar('V1', 'in chunks, to one query', $_, ratio($cpu{chunks}, $cpu{query}), 1.1);
	}
	return;
}

# The dearest row to the cheapest, over all sizes of the table.
sub growth_bars
{
	foreach my $measure (qw(cpu time))
	{
		my @v = sort { $a <=> $b } grep { defined } map { figure('growth', $_, 'dw', $measure) } keys %{$figures{growth}};
		bar('G1', 'dearest row to cheapest', $measure, ratio($v[-1], $v[0]), 1.3) if @v;
	}
	return;
}

sub bars
{
	mirror_bars();
	backfill_bars();
	latency_bars();
	verify_bars();
	growth_bars();
	return;
}

1;
