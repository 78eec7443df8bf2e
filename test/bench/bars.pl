# The bars, as figures of test/bench/run. To be read by report.pl.
#
# They were set before the first line of pg_dualwrite was written, from what
# prototypes of each technique reached. They are not to be loosened: a bar that
# can't be reached stays, and is missed.

use strict;
use warnings;

our %figures;

sub mirror_figure { return figure('mirror', "$_[0]/$_[1]", $_[2], 'instructions') }

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
		bar('T1', "$_: INSERT, to a generated column", mirror_ratio($_, 'insert', 'dw', 'gen'), 1.05);
		bar('T1', "$_: INSERT, above a no-op trigger, to two plpgsql triggers",
			ratio(above_noop($_, 'insert', 'dw'), above_noop($_, 'insert', 'pair')), 0.1);
	}
	bar('T2', "$_: COPY, to a generated column", mirror_ratio($_, 'copy', 'dw', 'gen'), 1.2) foreach @cases;
	bar('T3', "$_: UPDATE of the old column, to a generated column", mirror_ratio($_, 'update_old', 'dw', 'gen'), 1.15)
		foreach @cases;
	bar('T4', "$_: UPDATE of another column, to a no-op trigger", mirror_ratio($_, 'update_other', 'dw', 'noop'), 1.04)
		foreach @cases;

	# What the mapping doesn't name must not count: 30 columns beside 4.
	foreach my $case (qw(wide_first wide_middle wide_last))
	{
		bar('T5', "$case: INSERT, above a no-op trigger, to the row of 5 columns",
			ratio(above_noop($case, 'insert', 'dw'), above_noop('row', 'insert', 'dw')), 1.1);
		bar('T5', "$case: UPDATE of the old column, likewise",
			ratio(above_noop($case, 'update_old', 'dw'), above_noop('row', 'update_old', 'dw')), 1.1);
	}
	return;
}

sub bars
{
	mirror_bars();
	return;
}

1;
