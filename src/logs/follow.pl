# Reads log files inside a machine. Perl is part of every Debian; nothing else there tells how far it has read.
#
#   list PATTERN...                     the files: INODE SIZE MTIME ZONE PATH
#   read COUNT PATH                     the last lines of one (-1: all): INODE OFFSET MTIME ZONE PATH LINE
#   follow [INODE:OFFSET:PATH...] -- PATTERN...   what comes, from these places on, also after a rotation
#
# The fields are separated by tabs; OFFSET is behind the line, ZONE the machine's own.
use strict;
use warnings;
use Fcntl;
use File::Glob ();
use POSIX ();

my $LONGEST = 65536;
# Whoever wrote to a file that was rotated may go on with that until it is told to open the new one.
my $QUIET = 60;
# So many bytes before a place tell whether a file is still the same.
my $TRACE = 64;
binmode STDOUT;
my $zone = POSIX::strftime('%z', localtime);
my $mode = shift @ARGV;

sub files {
    my %seen;
    grep { !/[\x00-\x1f]/ && -f && !$seen{$_}++ } map { File::Glob::bsd_glob($_, File::Glob::GLOB_NOSORT()) } @_;
}

# Opens a regular file only: a pipe would wait for its writer.
sub opened {
    my ($path, $offset) = @_;
    sysopen(my $handle, $path, O_RDONLY | O_NONBLOCK) or return;
    my @stat = stat $handle;
    -f _ or return;
    my $file = { path => $path, handle => $handle, inode => $stat[1], offset => $offset, rest => '' };
    $file->{trace} = before($file, $offset < $TRACE ? $offset : $TRACE);
    return $file;
}

# The bytes before the place that was read to; reading goes on there.
sub before {
    my ($file, $count) = @_;
    my $at = $file->{offset} + length $file->{rest};
    my $bytes = '';
    if ($count) {
        sysseek $file->{handle}, $at - $count, 0;
        sysread $file->{handle}, $bytes, $count;
    }
    sysseek $file->{handle}, $at, 0;
    return $bytes;
}

# Whether what was read of a file still stands in it. One that is as long as it was is looked at while it is new.
sub goes_on {
    my ($file, $size, $mtime) = @_;
    my $at = $file->{offset} + length $file->{rest};
    return 1 if $size == $at && $mtime < time - 2;
    return $size >= $at && before($file, length $file->{trace}) eq $file->{trace};
}

# The files that a rotation may have made of this one, the newest first.
sub beside {
    my ($path) = @_;
    my ($folder, $stem) = $path =~ m{^(.*/)([^/]+?)(?:\.[^./]*)?$} or return;
    opendir my $listing, $folder or return;
    my @others = grep { -f && $_ ne $path } map { "$folder$_" } grep { index($_, $stem) == 0 } readdir $listing;
    return sort { (stat $b)[9] <=> (stat $a)[9] } @others;
}

# Whether a path is what a rotation made of one that is followed: what it holds was read there.
sub rotated {
    my ($path, $known) = @_;
    return 1 if $path =~ /\.(?:gz|xz|bz2|zst)$/;
    my ($stem, $kind) = $path =~ /^(.+?)(?:\.\d+|-\d{8}(?:-\d+)?)(\.[a-z]+)?$/ or return 0;
    return $known->{$stem} || defined $kind && $known->{"$stem$kind"};
}

# Prints the whole lines that are there, up to a place; a line without an end is printed once it has one, or is too long to
# wait for. What still comes in a file that was rotated is told at the place that its successor was read to.
sub drain {
    my ($file, $until, $place) = @_;
    $place ||= $file;
    my $mtime = (stat $file->{handle})[9];
    my $head = sub { join "\t", $place->{inode}, $place->{offset}, $mtime, $zone, $file->{path}, '' };
    my $at = $file->{offset} + length $file->{rest};
    while (!defined $until || $at < $until) {
        my $wanted = defined $until && $until - $at < $LONGEST ? $until - $at : $LONGEST;
        $at += sysread($file->{handle}, my $more, $wanted) || last;
        $file->{rest} .= $more;
        $file->{trace} = substr $file->{trace} . $more, -$TRACE;
        my $out = '';
        while ($file->{rest} =~ /\G([^\n]*)\n/gc) {
            $file->{offset} += length($1) + 1;
            $out .= $head->() . "$1\n";
        }
        $file->{rest} = substr $file->{rest}, pos $file->{rest} || 0;
        if (length $file->{rest} > $LONGEST) {
            $file->{offset} += length $file->{rest};
            $out .= $head->() . "$file->{rest}\n";
            $file->{rest} = '';
        }
        print $out;
    }
}

# Where the last so many lines begin.
sub tail_start {
    my ($file, $size, $count) = @_;
    my ($at, $found) = ($size, -1);
    while ($at > 0) {
        my $step = $at < $LONGEST ? $at : $LONGEST;
        $at -= $step;
        sysseek $file->{handle}, $at, 0;
        sysread($file->{handle}, my $block, $step) or last;
        for (my $end = length $block; ($end = rindex $block, "\n", $end - 1) >= 0; ) {
            return $at + $end + 1 if ++$found == $count;
            last if $end == 0;
        }
    }
    return 0;
}

if ($mode eq 'list') {
    for my $path (files(@ARGV)) {
        my @stat = stat $path or next;
        print join("\t", @stat[1, 7, 9], $zone, $path), "\n";
    }
} elsif ($mode eq 'read') {
    my ($count, $path) = @ARGV;
    my $file = opened($path, 0) or exit 0;
    my $size = -s $file->{handle};
    $file->{offset} = $count < 0 ? 0 : tail_start($file, $size, $count);
    sysseek $file->{handle}, $file->{offset}, 0;
    drain($file, $size);
} else {
    $| = 1;
    my (%mark, %open, %known, @old);
    while (@ARGV && (my $word = shift @ARGV) ne '--') {
        my ($inode, $offset, $path) = split /:/, $word, 3;
        $mark{$path} = [$inode, $offset];
        $known{$path} = 1;
    }
    my ($next, @paths) = (0);
    while (1) {
        if (time >= $next) {
            my @all = files(@ARGV);
            $known{$_} = 1 for @all;
            @paths = grep { !rotated($_, \%known) } @all;
            $next = time + 1;
        }
        for my $file (@old) {
            my $before = $file->{offset};
            drain($file, $before + 1_000_000, $open{ $file->{path} });
            $file->{grown} = time if $file->{offset} > $before;
        }
        @old = grep { time - $_->{grown} < $QUIET } @old;
        my %now = map { $_ => 1 } @paths, keys %open;
        for my $path (sort keys %now) {
            my @stat = stat $path;
            my $file = $open{$path};
            if ($file && (!@stat || $file->{inode} != $stat[1])) {
                drain($file);
                push @old, { %$file, grown => time };
                delete $open{$path};
                undef $file;
            }
            @stat or next;
            if ($file && !goes_on($file, @stat[7, 9])) {
                # Copied away and cut off: what came in between stands in the copy only.
                my $size = $file->{offset} + length $file->{rest};
                for my $other (beside($path)) {
                    my $copy = opened($other, $size) or next;
                    next if !$size || -s $copy->{handle} < $size || $copy->{trace} ne $file->{trace};
                    @$copy{'path', 'offset', 'rest'} = @$file{'path', 'offset', 'rest'};
                    drain($copy);
                    last;
                }
                undef $file;
            }
            if (!$file) {
                my ($inode, $offset) = @{ delete $mark{$path} || [0, 0] };
                if ($inode && $inode != $stat[1]) {
                    # Rotated while nobody read: its end is in a file beside it.
                    my ($old) = grep { (stat)[1] == $inode } beside($path);
                    if ($old && ($old = opened($old, $offset))) {
                        $old->{path} = $path;
                        drain($old);
                    }
                }
                my $same = $inode == $stat[1] && $offset <= $stat[7];
                $file = opened($path, $same ? $offset : 0) or next;
                $open{$path} = $file;
            }
            # Not beyond what was just found to be the same file; one that is written without end must not keep the others waiting.
            my $most = $file->{offset} + 1_000_000;
            drain($file, $stat[7] < $most ? $stat[7] : $most);
        }
        select undef, undef, undef, 0.15;
    }
}
